"""fill.py DIRECTORY FROM TO FILE...: copies the queue files in turn into the directory, as number FROM to TO - 1. The
number is part of the time in the name of the copy, so that each has another name."""
import os
import sys

directory, first, end, sources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
contents = [open(source, "rb").read() for source in sources]
rests = [os.path.basename(source).split("_", 1)[1] for source in sources]
os.makedirs(directory, exist_ok=True)
for n in range(first, end):
    name = f"bakfsfmt2-{1700000000 + n}.000000001.1_{rests[n % len(rests)]}"
    with open(os.path.join(directory, name), "xb") as out:
        out.write(contents[n % len(contents)])
