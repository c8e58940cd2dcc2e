"""Puts an object and gets it, writes a region and faults its pages in again, and says what came of it."""

import hashlib
import sys

import weft
from weft.model.errors import WeftError

content = hashlib.shake_256(sys.argv[1].encode()).digest(3 << 20)


def put_and_get(cluster: weft.Cluster) -> str:
    return "" if cluster.get(cluster.put(content, replicas=2)) == content else "other bytes"


def write_and_fault(cluster: weft.Cluster) -> str:
    region = cluster.region("secure", size="4MiB")
    with region.attach("exclusive") as memory:
        memory.write(0, content)
        memory.flush()
    with region.attach("exclusive") as memory:
        touched = memory.numpy("u1", shape=len(content))
        same = touched.tobytes() == content
        del touched
        return "" if same and memory.stats().remote_faults > 0 else "other bytes, or no faults"


with weft.connect() as cluster:
    for work in (put_and_get, write_and_fault):
        try:
            print(f"{work.__name__}: {work(cluster) or 'done'}", flush=True)
        except WeftError as error:
            print(f"{work.__name__}: {error.code}: {error}", flush=True)
