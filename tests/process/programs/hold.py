"""Attaches a region exclusively, writes a byte without flushing, says so, and lives until it is ended."""

import sys

import weft

cluster = weft.connect()
memory = cluster.region(sys.argv[1]).attach("exclusive")
memory.write(0, b"\xff")
print("holding", flush=True)
sys.stdin.readline()
