# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# Distributing: the seeds' loop, with what stands for nncp-file, against zsnap-fanout.

# seed_fanout send: calls `send FILE DRIVE`.
seed_fanout() {
  local file drive
  for file in spool/laptop/bakfsfmt2-*; do
    for drive in 1 2; do "$1" "$file" "$drive"; done
    rm "$file"
  done
}
copy() { cp "$1" "$place/drive$2/laptop/"; }
copy_sync() { copy "$@" && sync "$place/drive$2/laptop/${1##*/}"; }
tee_fanout() {
  local file name
  for file in spool/laptop/bakfsfmt2-*; do
    name=${file##*/}
    tee "$place/drive1/laptop/$name" <"$file" >"$place/drive2/laptop/$name"
    sync "$place/drive1/laptop/$name" "$place/drive2/laptop/$name"
    rm "$file"
  done
}
ours_fanout() { ours zsnap-fanout --config "$1"; }
# The spool is filled, and the drives are empty, before each run.
fill_spool() {
  rm -rf "$place"/drive?/laptop spool/.zsnap-fanout spool/laptop
  mkdir -p spool/laptop "$place/drive1/laptop" "$place/drive2/laptop"
  cp master/* spool/laptop/
  sync
}
# drives DIRECTORY: two directories below it are the drives.
drives() {
  place=$1
  mkdir -p "$place/drive1" "$place/drive2"
  echo disk1 >"$place/drive1/.zsnap-drive"
  echo disk2 >"$place/drive2/.zsnap-drive"
  printf 'spool = "%s"\n[to.disk1]\ndest = "dir:%s"\n[to.disk2]\ndest = "dir:%s"\n' \
    "$PWD/spool" "$PWD/$place/drive1" "$PWD/$place/drive2" >fanout.toml
}
# queue_files COUNT BYTES
queue_files() {
  rm -rf master && mkdir master
  for ((n = 0; n < $1; n++)); do
    head -c "$2" /dev/urandom >"master/bakfsfmt2-1700000000.$(printf %09d $n).1_laptop@tank@home"
  done
}

bench_fanout() {
  before() { fill_spool; }
  drives .
  queue_files 8 "${small}M"
  echo "fanout, two directories, 8 files of $small MiB, with fsync:"
  race "cp=seed_fanout copy_sync" "tee=tee_fanout" "ours:zsnap-fanout=ours_fanout fanout.toml"

  mkdir mounted
  truncate -s 4G disk.img
  if mkfs.btrfs -q disk.img 2>/dev/null && mount -o loop disk.img mounted; then
    (
      cd mounted || exit
      cp -r ../master .
      drives .
      echo "fanout, the same on btrfs, where files can share their blocks:"
      race "cp=seed_fanout copy_sync" "tee=tee_fanout" "ours:zsnap-fanout=ours_fanout fanout.toml"
    )
    umount mounted
  else
    echo "fanout on btrfs: not measured (it needs root and a kernel that mounts it)"
  fi
  rm disk.img

  queue_files $((files * 5)) 4K
  echo "fanout, two directories, $((files * 5)) files of 4 KiB (cp without fsync):"
  race "cp=seed_fanout copy" "ours:zsnap-fanout=ours_fanout fanout.toml"

  queue_files 8 $((small / 2))M
  nodes
  before() { fill_spool; rm -rf nncp/*; }
  echo "fanout, two NNCP nodes, 8 files of $((small / 2)) MiB:"
  race "nncp-file=seed_fanout send" "ours:zsnap-fanout=ours_fanout nncp.toml"
  before() { :; }
  rm -r spool master drive1 drive2
}

# An NNCP node of its own and two others.
nodes() {
  local n
  mkdir nncp
  for n in self 1 2; do nncp-cfgnew -nocomments >$n.hjson; done
  value() { sed -n "s/^ *$2: //p" "$1.hjson" | head -1; }
  keys() { for key in id exchpub signpub noisepub; do echo "$key: $(value "$1" $key)"; done; }
  {
    echo "{ spool: $PWD/nncp"
    echo "log: $PWD/nncp/log"
    echo "self: {"; keys self; for key in exchprv signprv noiseprv; do echo "$key: $(value self $key)"; done; echo "}"
    echo "neigh: { self: {"; keys self; echo "}"
    for n in 1 2; do echo "disk$n: {"; keys $n; echo "}"; done
    echo "} }"
  } >nncp.hjson
  printf 'spool = "%s"\nnncp-config = "%s"\n[to.disk1]\ndest = "nncp-file:disk1"\n[to.disk2]\ndest = "nncp-file:disk2"\n' \
    "$PWD/spool" "$PWD/nncp.hjson" >nncp.toml
}
send() { nncp-file -cfg nncp.hjson -quiet -noprogress "$1" "disk$2:laptop/${1##*/}"; }
