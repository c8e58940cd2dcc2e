"""Endpoints' side of the transfer figures: `python -m benches.endpoint read|write|vector BYTES COUNT tcp|ipc`, as JSON.

One process owns 64 MiB, this one walks through them; `vector` reads sixteen ranges that do not touch in one call.
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


def endpoint(name: str, transport: str) -> Endpoint:
    speak_tls(os.environ)
    congestion = os.environ.get("WEFT_TCP_CONGESTION") or None
    return Endpoint.listen(secret=SECRET, name=name, transport=transport, congestion=congestion)


def own(transport: str) -> None:
    content = np.random.default_rng(1).integers(0, 256, WALK_BYTES, dtype=np.uint8)
    with endpoint("owner", transport) as owner, owner.register(content) as memory:
        print(owner.metadata.hex(), memory.advertise().encode().hex(), flush=True)
        sys.stdin.read()


def main() -> None:
    if sys.argv[1] == "own":
        own(sys.argv[2])
        return
    operation, size_bytes, count, transport = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    command = [sys.executable, "-m", "benches.endpoint", "own", transport]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        metadata, advert_text = owner.stdout.readline().split()
        advert, took = weft.Advert(bytes.fromhex(advert_text)), []
        content = np.random.default_rng(1).integers(0, 256, WALK_BYTES, dtype=np.uint8)
        local = content.copy() if operation == "write" else np.ones(WALK_BYTES, dtype=np.uint8)
        memory, warm = memoryview(local), count // 10 + 1
        with endpoint("reader", transport) as other, other.connect(bytes.fromhex(metadata)) as peer:
            assert peer.transport == transport
            for index in range(count + warm):
                offset = index * size_bytes % WALK_BYTES
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
        if operation == "read" and size_bytes * count >= WALK_BYTES:
            assert np.array_equal(local, content), "what was read is not what the owner has"
        owner.stdin.close()
    took = sorted(took[warm:])
    p50, bytes_moved = took[len(took) // 2], size_bytes * (RANGES if operation == "vector" else 1)
    figures = {"p50_us": p50 / 1e3, "p99_us": took[len(took) * 99 // 100] / 1e3, "gb_per_s": bytes_moved / p50}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
