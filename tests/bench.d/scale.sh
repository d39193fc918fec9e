# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# shellcheck disable=SC2016 # `scaled` expands its command
# Time and memory with many waiting files and nothing to do, and with many snapshots.

bench_scale() {
  local part count have
  make_keys
  make_waiting
  echo "scale, median of three runs (asked with 100,000 waiting files and nothing to do: 3 s, 300 MiB):"
  for part in queue fanout ingest expire; do
    have=0
    for count in "${scale[@]}"; do
      "scale_$part" "$count" "$have"
      have=$count
    done
  done
  rm -rf queue-state spool incoming target ingest-state* waiting snapshots
}

# Makes 300 queue files: 3 incrementals of each of 100 datasets, whose fulls are missing. All others are copies.
make_waiting() {
  local dataset n
  echo "bench: sealing 400 files"
  echo text >stream
  rm -rf queue-state
  for dataset in {1..100}; do
    queue_opaque "$work/away" stream "bench/data$dataset" --full
    rm queue-state/outbox/to/*/bench/*"@data$dataset"
    for n in {1..3}; do queue_opaque "$work/away" stream "bench/data$dataset" --increment --overlap; done
  done 2>/dev/null # "not delivered"
  mkdir waiting
  mv queue-state/outbox/to/*/bench/* waiting/
}

# scaled NAME COUNT RUNS COMMAND: prints the median time, the peak memory, and how much longer it takes than with the
# count before, and how much that would be for n log n. Status 1 is no failure: these commands report what waits.
declare -A last=()
scaled() {
  local set suffix n start took
  for set in "$new" ${old:+"$old"}; do
    suffix=
    [ "$set" = "$new" ] || suffix=-before
    bin=$set
    : >peaks
    measure "$1"
    for ((n = 0; n < $3; n++)); do
      start=${EPOCHREALTIME/./}
      eval "$4" || [ $? = 1 ] || { echo "bench: failed: $4" >&2; exit 1; }
      echo $((${EPOCHREALTIME/./} - start))
    done 2>messages | sort -n >timings
    took=$(sed -n "$((($3 + 1) / 2))p" timings)
    awk -v name="$1$suffix" -v n="$2" -v t="$took" -v last="${last[$1$suffix]:-}" '
      $NF > peak { peak = $NF }
      END {
        printf "  %-32s %8d  %8.3f s   peak %4d MiB", name, n, t / 1e6, peak / 1024
        if (split(last, was) && n > was[1]) printf "   times %4.1f (n log n: %.1f)", t / was[2], n * log(n) / was[1] / log(was[1])
        print ""
      }' peaks
    last[$1$suffix]="$2 $took"
  done
  meter=() bin=$new
}

# The files wait for a directory that is absent.
scale_queue() {
  fill queue-state/outbox/to/*/bench "$2" "$1" waiting/*
  scaled "queue status" "$1" 3 'ours zsnap-queue --config empty.toml --state queue-state status >report'
  scaled "queue flush" "$1" 3 'ours zsnap-queue --config empty.toml --state queue-state flush'
}

# The files wait for two drives that are absent.
scale_fanout() {
  fill spool/bench "$2" "$1" waiting/*
  printf '%s\n' "spool = \"$work/spool\"" '[to.disk1]' "dest = \"dir:$work/away/disk1\"" \
    '[to.disk2]' "dest = \"dir:$work/away/disk2\"" >scale.toml
  old='' scaled "fanout run, new files" $(($1 - $2)) 1 'ours zsnap-fanout --config scale.toml'
  scaled "fanout run" "$1" 3 'ours zsnap-fanout --config scale.toml'
  scaled "fanout status" "$1" 3 'ours zsnap-fanout --config scale.toml status >report'
}

# The files wait for their bases. "new files": the run before has read only as many as the count before.
scale_ingest() {
  local ingest='ours zsnap-ingest --config scale.toml --max-files 1000000 --state "$work/ingest-state$suffix"'
  mkdir -p target
  ingest_config 'bench/*' "exec cat >$work/target/last" >scale.toml
  fill incoming/bench "$2" "$1" waiting/*
  scaled "ingest status, new files" "$1" 3 "$ingest status >report"
  scaled "ingest run, new files" $(($1 - $2)) 1 "$ingest run"
  scaled "ingest run" "$1" 3 "$ingest run"
  scaled "ingest status" "$1" 3 "$ingest status >report"
}

# Ten times as many snapshots, of datasets with a hundred each, and of one dataset.
scale_expire() {
  local n=$(($1 * 10)) each
  for each in 100 "$n"; do
    awk -v n="$n" -v each="$each" 'BEGIN { for (i = 0; i < n; i++)
      printf "tank/data%d@s%d\t%d\n", i / each, i, 1763800000 - i % each * (each > 100 ? 60 : 40000) }' >snapshots
    scaled "expire, $([ "$each" = 100 ] && echo 100 per || echo one) dataset" "$n" 3 'native_rules <snapshots >report'
  done
}
