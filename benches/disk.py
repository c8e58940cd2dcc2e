"""The disk under the journal, by itself: how many commands a second any program could make durable on it, now.

    python -m benches.disk FOLDER CALLERS COMMAND_BYTES SECONDS

So many callers wait for their answers, so no batch holds more than all of them, and a batch is answered when it is on
the disk: nobody does better than `CALLERS` commands a sync, whatever decides them. Two loops write such batches and
sync each, one to the end of a file that grows and one over blocks that are there already, as SQLite's log is after its
first checkpoint. Prints JSON.
"""

import json
import os
import sys
import tempfile
import time

PREPARED_BYTES = 4 << 20


def syncs(folder: str, batch_bytes: int, seconds: float, *, in_place: bool) -> list[float]:
    """What each write and sync of a batch took, in microseconds, in order of length."""
    batch, took_us, at = os.urandom(batch_bytes), [], 0
    with tempfile.TemporaryFile(dir=folder) as file:
        if in_place:
            file.write(bytes(PREPARED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter_ns()
            os.pwrite(file.fileno(), batch, at)
            os.fdatasync(file.fileno())
            took_us.append((time.perf_counter_ns() - began) / 1e3)
            at += batch_bytes
            if in_place and at + batch_bytes > PREPARED_BYTES:
                at = 0
    return sorted(took_us)


def main() -> None:
    folder, callers, command_bytes, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    figures: dict[str, float] = {}
    for name, in_place in (("growing", False), ("in_place", True)):
        took_us = syncs(folder, callers * command_bytes, seconds / 2, in_place=in_place)
        figures |= {
            f"{name}_us": took_us[len(took_us) // 2],
            f"{name}_p99_us": took_us[len(took_us) * 99 // 100],
            f"{name}_per_s": callers * len(took_us) / (sum(took_us) / 1e6),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
