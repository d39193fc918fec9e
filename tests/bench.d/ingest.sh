# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# Receiving: gpg -d | zstd -d against zsnap-ingest.

bench_ingest() {
  local data buffer=$((large / 4))MiB
  make_data
  make_keys
  for data in compressible mixed incompressible; do
    seal "$data"
    echo "ingest (cat), $data, $large MiB, two passes (--verify-buffer $buffer):"
    race_read --verify-buffer $buffer
    echo "ingest (cat), $data, $large MiB, default buffer:"
    race_read
    head -c "${small}M" "$data" >part
    seal part
    echo "ingest (cat), $data, $small MiB, default buffer:"
    race_read
  done
  rm part sealed.*
}
seal() { seed_queue "$1" sealed.seed; ours_queue gpg "$1" sealed.gpg; ours_queue aead "$1" sealed.aead; }
race_read() {
  race "gpg|zstd=seed_read sealed.seed | cat >/dev/null" "ours:format-gpg=ours_read sealed.gpg $* | cat >/dev/null" \
    "ours:format-aead=ours_read sealed.aead $* | cat >/dev/null"
}

# Into a receiver that is slower than the rest, as a disk is.
bench_disk() {
  local n
  make_data
  make_keys
  for ((n = 0; n < disk; n += large)); do cat mixed; done >stream
  truncate -s "${disk}M" stream
  ours_queue gpg stream stream.gpg
  receiver() { "$python" "$here/bench.d/slow-receiver.py" 150; }
  echo "ingest (cat), mixed, $disk MiB, into a receiver that reads 150 MB/s (asked: 0.90):"
  warmup='' rounds=$((rounds < 2 ? rounds : 2)) race "cat=cat stream | receiver" \
    "ours:zsnap-ingest=ours_read stream.gpg | receiver"
  rm stream stream.gpg
}

# Many small files of one dataset, each into a command.
bench_files() {
  local n
  make_keys
  { head -c 32K "$(command -v gpg)"; head -c 32K /dev/urandom; } >stream
  seed_queue stream stream.seed
  mkdir queued
  echo "bench: sealing $files files"
  queue_opaque "$work/queued" stream bench/data --full
  for ((n = 1; n < files; n++)); do queue_opaque "$work/queued" stream bench/data --increment --overlap; done
  cp stream.seed seed_bench@data
  fill queued-seed 0 "$files" seed_bench@data
  ingest_config bench/data "exec cat >>$work/target/all" >files.toml
  before() {
    rm -rf incoming target .zsnap ingest-state
    mkdir incoming target
    if [ "${commands[j]}" = seed_loop ]; then cp -r queued-seed incoming/bench; else cp -r queued/bench incoming/; fi
    sync
  }
  echo "ingest (run), $files files of 64 KiB, each into sh -c 'exec cat >>FILE' (asked: 5):"
  warmup='' rounds=$((rounds < 2 ? rounds : 2)) race "gpg|zstd|sh=seed_loop" "ours:zsnap-ingest=ours_run"
  before() { :; }
  rm -r queued queued-seed incoming target .zsnap ingest-state
}
# ingest_config MATCH SCRIPT
ingest_config() {
  printf '%s\n' "incoming = \"$work/incoming\"" "keys = [\"$work/backup.key\"]" \
    '[hosts.bench]' "signers = [\"$work/bench.cert\"]" \
    '[[command]]' "match = \"$1\"" "run = [\"/bin/sh\", \"-c\", \"$2\"]" "target = \"$work/target\"" 'overlap = true'
}
seed_loop() {
  local file
  for file in incoming/bench/*; do
    gpg --batch --quiet -d <"$file" | zstd -dcq | /bin/sh -c "exec cat >>$work/target/all"
    rm "$file"
  done
  all_arrived
}
ours_run() {
  ours zsnap-ingest --config files.toml --state "$work/ingest-state"
  all_arrived
}
all_arrived() {
  [ "$(stat -c %s target/all)" = $((files << 16)) ] && return
  echo "bench: not all of the $files files arrived" >&2
  exit 1
}
