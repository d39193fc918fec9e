# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# Sealing: zstd | gpg against zsnap-queue.

bench_queue() {
  local data
  make_data
  make_keys
  for data in compressible mixed incompressible; do
    echo "queue, $data, $large MiB:"
    race "zstd|gpg=seed_queue $data sealed" "ours:format-gpg=ours_queue gpg $data sealed" \
      "ours:format-aead=ours_queue aead $data sealed"
  done
  rm sealed
}
