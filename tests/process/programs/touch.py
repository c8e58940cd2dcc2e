"""Attaches a region, says so, waits for a line, and touches the byte at an offset; the byte is printed if it comes."""

import sys

import weft

name, offset = sys.argv[1], int(sys.argv[2])
with weft.connect() as cluster, cluster.region(name).attach("read") as memory, memory.buffer as buffer:
    print("attached", flush=True)
    sys.stdin.readline()
    print(f"byte {buffer[offset]}", flush=True)
