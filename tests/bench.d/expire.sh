# shellcheck shell=bash disable=SC2154,SC2034,SC2317 # variables and functions of other files
# The planner of zsnap-ingest, and zsnap-expire against zrep-expire.

bench_plan() {
  local set
  for set in "$new" ${old:+"$old"}; do
    echo "plan, $set:"
    "$set/bench-plan"
  done
}

bench_expire() {
  local at=2025-11-22T08:26:40Z
  # A hundred snapshots each, an hour to three days apart.
  awk 'BEGIN { srand(1); for (d = 0; d < 10000; d++) { t = 1763800000; for (s = 0; s < 100; s++) {
    r = rand(); t -= r < 0.6 ? 3600 : r < 0.7 ? 7200 : r < 0.9 ? 86400 : 259200
    printf "tank/data%05d@zrep_%06x\t%d\n", d, s, t } } }' >million
  printf '%s\n' "1 hour : 1 minute" "12 hours : 5 minutes" "8 days : 1 hour" "32 days : 1 day" \
    "1 year : 1 week" "5 years : 1 month" >zrep.conf
  echo "expire --filter, 1,000,000 snapshots of 10,000 datasets, rules of zrep-expire:"
  race "python=$python '$here/zrep-expire.py' 1763800000 <million >python.out" \
    "ours:zsnap-expire=ours zsnap-expire --filter --at $at -c zrep.conf <million >ours.out"
  cmp <(sort python.out) <(sort ours.out) || echo "expire: the two differ"
  echo "expire --filter, the same, all=48h daily=15d weekly=4w monthly=6m yearly=5y (asked: 2 s, 600 MiB):"
  race "ours:zsnap-expire=native_rules <million >native.out"
}
native_rules() {
  ours zsnap-expire --filter --max-destroy=none --timezone=Europe/Berlin \
    --keep=all=48h --keep=daily=15d --keep=weekly=4w --keep=monthly=6m --keep=yearly=5y
}
