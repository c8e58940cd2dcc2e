"""Attaches, forks, and shows that the child is told and the parent unharmed."""

import os
import sys

import weft

with weft.connect() as cluster, cluster.region(sys.argv[1], size="4MiB").attach("exclusive") as memory:
    memory.write(0, b"mine")
    child = os.fork()
    if child == 0:
        try:
            memory.read(0, 1)
        except weft.errors.Closed as error:
            print(f"child: {error}; {cluster.health().status} over a connection of its own", flush=True)
        sys.exit(0)
    os.waitpid(child, 0)
    assert memory.read(0, 4) == b"mine"
    memory.flush()
    assert memory.read(0, 4) == b"mine"
    print("parent still reads", flush=True)
