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
