"""The CPU's unpack beside a loop of memcpy over the same fragments: `python -m benches.unpack FILE COUNT`, JSON.

A block is checked once in its life (bounds, sums, no byte written twice) and unpacked once. The promise is about the
second; the rows that say "with the check" have both, where the floor checks nothing. Blocks in random order cost the
check the most: those that a stream brings are in order, and checked in a seventh of the time.
"""

import json
import mmap
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benches.rounds import Row, floor_program, heading, in_turn, weft_program
from weft._native import UnpackBlock

KIB, MIB = 1 << 10, 1 << 20
MOVED_BYTES = 64 * MIB
# What lies around the fragments, so that shuffled and misaligned ones still fit.
ROOM_BYTES = 64 * KIB
COUNT = 15
FRAGMENTS_MAX, SLICE_BYTES_MAX = 2048, 4 * MIB


def blocks(fragment_bytes: int, shift: int) -> list[list[tuple[int, int, int]]]:
    """Targets in random order, sources too, `shift` bytes off alignment each way; as few blocks as hold them."""
    random = np.random.default_rng(fragment_bytes + shift)
    count = MOVED_BYTES // fragment_bytes
    sources, targets = random.permutation(count), random.permutation(count)
    fragments = [
        (int(source) * fragment_bytes + shift, fragment_bytes, int(target) * fragment_bytes + 2 * shift)
        for source, target in zip(sources, targets, strict=True)
    ]
    size = min(FRAGMENTS_MAX, SLICE_BYTES_MAX // fragment_bytes)
    return [fragments[start : start + size] for start in range(0, count, size)]


def run() -> list[Row]:
    """The suite of `make bench`."""
    heading(f"unpack with the CPU (64 MiB of fragments in random order; {COUNT} times; the floor is memcpy each)")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for fragment_bytes in (512, 4 * KIB, 64 * KIB):
            for shift, word in ((0, "aligned"), (5, "misaligned")):
                path = Path(folder) / f"{fragment_bytes}-{shift}"
                lists = blocks(fragment_bytes, shift)
                bytes_each = MOVED_BYTES + ROOM_BYTES
                encoded = [struct.pack("<3Q", bytes_each, bytes_each, len(lists))]
                for fragments in lists:
                    block = UnpackBlock.of(fragments, bytes_each, bytes_each).encode()
                    encoded.append(struct.pack("<Q", len(fragments)) + block[64:])
                path.write_bytes(b"".join(encoded))
                size = f"{fragment_bytes} B" if fragment_bytes < KIB else f"{fragment_bytes // KIB} KiB"
                rows += in_turn(
                    {
                        "gb_per_s": Row(f"{size} {word}", "GB/s", "≥ 0.90"),
                        "checked_gb_per_s": Row("  with the check", "GB/s", ""),
                    },
                    lambda: floor_program("unpack", path, COUNT),  # noqa: B023
                    lambda: weft_program("unpack", path, COUNT),  # noqa: B023
                )
    return rows


def main() -> None:
    data, count = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
    bounce_bytes, target_bytes, lists = struct.unpack_from("<3Q", data)
    at, encoded = 24, []
    for _ in range(lists):
        (length,) = struct.unpack_from("<Q", data, at)
        fragments = list(struct.iter_unpack("<IIQ", data[at + 8 : at + 8 + 16 * length]))
        encoded.append(UnpackBlock.of(fragments, bounce_bytes, target_bytes).encode())
        at += 8 + 16 * length
    # Mapped like the floor's, page by page, so that both have the same pages under them.
    bounce, target = mmap.mmap(-1, bounce_bytes, mmap.MAP_PRIVATE), mmap.mmap(-1, target_bytes, mmap.MAP_PRIVATE)
    for memory in (bounce, target):
        np.frombuffer(memory, np.uint8)[:] = 1
    made = [UnpackBlock(one) for one in encoded]
    unpacked = median(count, lambda: sum(block.unpack(bounce, target) for block in made))
    checked = median(count, lambda: sum(UnpackBlock(one).unpack(bounce, target) for one in encoded))
    moved = sum(block.total_bytes for block in made)
    print(json.dumps({"gb_per_s": moved / unpacked, "checked_gb_per_s": moved / checked}))


def median(count: int, work: Callable[[], object]) -> float:
    """Nanoseconds, after a tenth that does not count."""
    took = []
    for _ in range(count + count // 10 + 1):
        started = time.perf_counter_ns()
        work()
        took.append(time.perf_counter_ns() - started)
    return float(sorted(took[count // 10 + 1 :])[count // 2])


if __name__ == "__main__":
    main()
