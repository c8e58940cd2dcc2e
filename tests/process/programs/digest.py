"""Attaches a sealed region and prints the SHA-256 of its bytes, read through the mapping."""

import hashlib
import sys

import weft

with weft.connect() as cluster, cluster.region(sys.argv[1]).attach("read") as memory, memory.buffer as buffer:
    print(f"sha256 {hashlib.sha256(buffer).hexdigest()}", flush=True)
