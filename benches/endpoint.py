"""Endpoints' side of the transfer figures: `python -m benches.endpoint OPERATION BYTES COUNT WAY [hot|walk]`, as JSON.

One process owns 64 MiB, this one walks through them, or moves the first bytes again and again where it is said to be
`hot`; OPERATION is read, write or vector, which reads sixteen ranges that do not touch in one call. WAY is tcp, ipc, or
mapped: ipc with memory that Weft allocated.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np

import weft
from weft.client.security import speak_tls
from weft.dataplane.endpoint import Endpoint

WALK_BYTES = 64 << 20
SECRET = b"a secret for figures"
RANGES = 16


def transport_of(way: str) -> str:
    return "ipc" if way == "mapped" else way


def endpoint(name: str, way: str) -> Endpoint:
    speak_tls(os.environ)
    congestion = os.environ.get("WEFT_TCP_CONGESTION") or None
    return Endpoint.listen(secret=SECRET, name=name, transport=transport_of(way), congestion=congestion)


def own(way: str) -> None:
    content = np.random.default_rng(1).integers(0, 256, WALK_BYTES, dtype=np.uint8)
    with endpoint("owner", way) as owner:
        memory: memoryview | np.ndarray = content
        if way == "mapped":
            memory = owner.allocate(WALK_BYTES)
            np.frombuffer(memory, dtype=np.uint8)[:] = content
        with owner.register(memory) as registered:
            print(owner.metadata.hex(), registered.advertise().encode().hex(), flush=True)
            sys.stdin.read()


def main() -> None:
    if sys.argv[1] == "own":
        own(sys.argv[2])
        return
    operation, size_bytes, count, way = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    hot = sys.argv[5:] == ["hot"]
    command = [sys.executable, "-m", "benches.endpoint", "own", way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        metadata, advert_text = owner.stdout.readline().split()
        advert, took = weft.Advert(bytes.fromhex(advert_text)), []
        content = np.random.default_rng(1).integers(0, 256, WALK_BYTES, dtype=np.uint8)
        local = content.copy() if operation == "write" else np.ones(WALK_BYTES, dtype=np.uint8)
        memory, warm = memoryview(local), count // 10 + 1
        with endpoint("reader", way) as other, other.connect(bytes.fromhex(metadata)) as peer:
            assert peer.transport == transport_of(way)
            for index in range(count + warm):
                offset = 0 if hot else index * size_bytes % WALK_BYTES
                if operation == "vector":
                    starts = [(offset + piece * 2 * size_bytes) % WALK_BYTES for piece in range(RANGES)]
                    items = [(advert, start, memory[start : start + size_bytes]) for start in starts]
                    started = time.perf_counter_ns()
                    peer.readv_now(items)
                else:
                    move, part = getattr(peer, f"{operation}_now"), memory[offset : offset + size_bytes]
                    started = time.perf_counter_ns()
                    move(advert, part, offset=offset)
                took.append(time.perf_counter_ns() - started)
        if operation == "read" and size_bytes * count >= WALK_BYTES and not hot:
            assert np.array_equal(local, content), "what was read is not what the owner has"
        owner.stdin.close()
    took = sorted(took[warm:])
    p50, bytes_moved = took[len(took) // 2], size_bytes * (RANGES if operation == "vector" else 1)
    figures = {"p50_us": p50 / 1e3, "p99_us": took[len(took) * 99 // 100] / 1e3, "gb_per_s": bytes_moved / p50}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
