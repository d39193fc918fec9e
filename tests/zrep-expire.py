#!/usr/bin/env python3
"""The spacing of zrep-expire's second version, written plainly, for the benchmark: lines
NAME<TAB>SECONDS-SINCE-1970 on standard input, the names that it would destroy on standard output."""
import sys
from datetime import datetime, timedelta

KEEP = 5
WINDOWS = [  # MAX_AGE as timedelta or months, MIN_INTERVAL
    (timedelta(hours=1), timedelta(minutes=1)),
    (timedelta(hours=12), timedelta(minutes=5)),
    (timedelta(days=8), timedelta(hours=1)),
    (timedelta(days=32), timedelta(days=1)),
    (12, timedelta(weeks=1)),
    (60, timedelta(days=31)),
]


def before(now, age):
    if isinstance(age, timedelta):
        return now - age
    years, month = divmod(now.month - 1 - age, 12)
    day = now.day
    while True:
        try:
            return now.replace(year=now.year + years, month=month + 1, day=day)
        except ValueError:
            day -= 1


def expire(snapshots, now):
    cutoffs = sorted((before(now, age), interval) for age, interval in WINDOWS)
    last = None
    for name, created in snapshots[:-KEEP]:
        if created < cutoffs[0][0]:
            yield name
            continue
        if last is None:
            last = created
            continue
        interval = timedelta(0)
        for cutoff, spacing in cutoffs:
            if created >= cutoff:
                interval = spacing
        if created - last < interval:
            yield name
        else:
            last = created


def main():
    now = datetime.fromtimestamp(int(sys.argv[1])) if len(sys.argv) > 1 else datetime.now()
    filesystems = {}
    for line in sys.stdin:
        name, seconds = line.rstrip("\n").rsplit("\t", 1)
        created = datetime.fromtimestamp(int(seconds)).replace(second=0)
        filesystems.setdefault(name.rsplit("@", 1)[0], []).append((name, created))
    for snapshots in filesystems.values():
        snapshots.sort(key=lambda snapshot: snapshot[1])
        for name in expire(snapshots, now):
            print(name)


main()
