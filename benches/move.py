"""Weft's side of the transfer figures: `python -m benches.move read|write BYTES COUNT [RANGES]` prints JSON."""

import json
import sys
import time

import numpy as np

from benches.lender import Lender

WALK_BYTES = 64 << 20


def main() -> None:
    operation, size_bytes, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ranges = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    with Lender(WALK_BYTES) as lender:
        peer, extent = lender.connect(), lender.extent()
        content = np.random.default_rng(1).integers(0, 256, WALK_BYTES, dtype=np.uint8)
        peer.write_now(extent, content)
        local = np.ones(WALK_BYTES, dtype=np.uint8) if operation == "read" else content
        memory, move, took = memoryview(local), getattr(peer, f"{operation}_now"), []
        warm = count // 10 + 1
        for index in range(count + warm):
            offset = index * size_bytes * ranges % WALK_BYTES
            part = memory[offset : offset + size_bytes * ranges]
            if ranges == 1:
                started = time.perf_counter_ns()
                move(extent, part, offset=offset)
            else:
                # Sixteen pages that do not touch each other, in one call.
                scattered = [
                    (
                        extent,
                        (offset + piece * 2 * size_bytes) % WALK_BYTES,
                        part[piece * size_bytes : (piece + 1) * size_bytes],
                    )
                    for piece in range(ranges)
                ]
                started = time.perf_counter_ns()
                peer.readv_now(scattered)
            took.append(time.perf_counter_ns() - started)
        if operation == "read" and ranges == 1 and size_bytes * count >= WALK_BYTES:
            assert np.array_equal(local, content), "what was read is not what was written"
        took = sorted(took[warm:])
        p50 = took[len(took) // 2]
        print(
            json.dumps(
                {
                    "p50_us": p50 / 1e3,
                    "p99_us": took[len(took) * 99 // 100] / 1e3,
                    "gb_per_s": size_bytes * ranges / p50,
                }
            )
        )


if __name__ == "__main__":
    main()
