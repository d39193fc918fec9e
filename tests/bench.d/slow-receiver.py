"""slow-receiver.py MB: reads standard input at this many MB/s, as a disk would. Time during which nothing comes is
lost."""
import os
import sys
import time

rate = float(sys.argv[1]) * 1e6
due = time.monotonic()
while data := os.read(0, 1 << 20):
    now = time.monotonic()
    # Up to 50 ms may be made up for, because sleep is inexact.
    due = max(due, now - 0.05) + len(data) / rate
    if due > now:
        time.sleep(due - now)
