# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# Runs commands in turn, and prints their times and their memory.

# ours TOOL ARGUMENT...: runs a tool of the set whose turn it is.
ours() { "${meter[@]}" "$bin/$1" "${@:2}"; }
# What measures the peak memory of the tool: GNU time, which takes about a millisecond, so not while time is measured.
# Of a tool that has children, it is the peak of the largest process.
meter=()
measure() { meter=(/usr/bin/time -q -a -o "$work/peaks" -f "$1 %M"); }

# race ROW...: runs the rows in turn. A row is NAME=COMMAND, or ours:NAME=COMMAND for a command that calls `ours`. It
# prints for each row the median time, the ratio to the first row, and for ours the peak memory of the first round.
# With warmup= the first round counts. Before each command it runs `before`, which is not counted.
before() { :; }
warmup=1
race() {
  local names=() commands=() sets=() row i j start end first=${warmup:+0}
  for row; do
    names+=("$(row_name "$row")") commands+=("${row#*=}") sets+=("$new")
    if [[ $row = ours:* && $old ]]; then
      names+=("$(row_name "$row")-before") commands+=("${row#*=}") sets+=("$old")
    fi
  done
  : >timings
  : >peaks
  for ((i = ${first:-1}; i <= rounds; i++)); do
    for j in "${!names[@]}"; do
      bin=${sets[j]}
      before
      meter=()
      ((i > ${first:-1})) || measure "${names[j]}"
      start=${EPOCHREALTIME/./}
      eval "${commands[j]}"
      end=${EPOCHREALTIME/./}
      ((i == 0)) || echo "$i ${names[j]} $((end - start))" >>timings
    done
  done
  meter=() bin=$new
  print_race
}
row_name() {
  local name=${1%%=*}
  echo "${name#ours:}"
}
print_race() {
  awk '
    FILENAME == "peaks" { if ($2 > peak[$1]) peak[$1] = $2; next }
    !first { first = $2 }
    !($2 in seen) { seen[$2] = ++n; name[n] = $2 }
    { time[$1, $2] = $3; if ($1 > rounds) rounds = $1 }
    function median(list, count,    a, b, t) {
      for (a = 1; a <= count; a++) for (b = a + 1; b <= count; b++) if (list[b] < list[a]) { t = list[a]; list[a] = list[b]; list[b] = t }
      return list[int((count + 1) / 2)]
    }
    END {
      for (k = 1; k <= n; k++) {
        for (r = 1; r <= rounds; r++) { ratio[r] = time[r, first] / time[r, name[k]]; took[r] = time[r, name[k]] }
        m = median(ratio, rounds)
        printf "  %-22s %7.3f s   ratio %5.2f (%.2f to %.2f)", name[k], median(took, rounds) / 1e6, m, ratio[1], ratio[rounds]
        if (name[k] in peak) printf "   peak %4d MiB", peak[name[k]] / 1024
        print ""
      }
    }' peaks timings
}
