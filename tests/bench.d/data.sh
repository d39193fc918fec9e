# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# What several parts need: data, keys, and sealed files.

# Makes $large MiB of each kind of data, once.
make_data() {
  [ ! -e mixed ] || return 0
  local size=$((large << 20))
  echo "bench: making 3 x $large MiB"
  # Every 9th 4 MiB of what is installed here: programs, texts, pictures as they come.
  # shellcheck disable=SC2016 # split's filter expands these
  (tar -C /usr -cf - . 2>/dev/null || true) |
    split -d -a 5 -b 4M --filter='[ $((10#${FILE#x} % 9)) = 0 ] && cat || cat >/dev/null' - x 2>/dev/null |
    head -c $size >compressible || true
  while [ "$(stat -c %s compressible)" -lt $size ]; do
    cp compressible again && cat again >>compressible && truncate -s "<$size" compressible
  done
  head -c $size /dev/urandom >incompressible
  exec 3<compressible 4<incompressible
  for _ in $(seq $((large / 2))); do head -c 1M <&3; head -c 1M <&4; done >mixed
  exec 3<&- 4<&-
}

# Makes the keys of a sender and of the receiver, once.
make_keys() {
  [ ! -e gnupg ] || return 0
  mkdir -m 700 gnupg
  ours zsnap-queue keygen --host bench --out bench >/dev/null
  ours zsnap-ingest keygen --aead --out backup >/dev/null
  gpg --quiet --batch --import backup.key bench.cert
  recipient=$(gpg --batch --list-keys --with-colons backup | awk -F: '/^fpr/ { print $10; exit }')
}

# The options have their old names here, which older binaries know as well.
seed_queue() { zstd -8 -q - <"$1" | gpg --batch --quiet --trust-model always --compress-algo none --cipher-algo AES256 -e -r "$recipient" >"$2"; }
ours_queue() {
  rm -rf state
  ours zsnap-queue --config empty.toml --state "$work/state" --recipient-file backup.cert --signer-file bench.key \
    --format "$1" --opaque --full --to - bench/data <"$2" >"$3"
}
seed_read() { gpg --batch --quiet --trust-model always -d "$1" | zstd -dcq; }
# ours_read FILE [OPTION...]
ours_read() { ours zsnap-ingest --config empty.toml --keys backup.key --host bench "${@:2}" cat --signer-file bench.cert "$1"; }

# queue_opaque DIRECTORY FILE TARGET OPTION...: queues a file for dir:DIRECTORY, with a state that stays.
queue_opaque() {
  [ -e "$1/.zsnap-drive" ] || ! [ -d "$1" ] || echo bench >"$1/.zsnap-drive"
  ours zsnap-queue --config empty.toml --state "$work/queue-state" --recipient-file backup.cert \
    --signer-file bench.key --to "dir:$1" --opaque "${@:4}" "$3" <"$2"
}
# fill DIRECTORY FROM TO FILE...: copies the files in turn, as number FROM to TO - 1.
fill() { "$python" "$here/bench.d/fill.py" "$@"; }
