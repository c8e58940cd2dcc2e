"""The pager seed's workload, over a region two other processes lend: each pattern checks every byte it touches.

The byte at offset o is (o * 31 + o // 4096) mod 251, so no page equals its neighbour and none is zero throughout.
"""

import sys
import threading

import numpy

import weft

PAGE = 4096


def expected(offsets: "numpy.ndarray") -> "numpy.ndarray":
    return ((offsets * 31 + offsets // PAGE) % 251).astype("u1")


def sequential(array: "numpy.ndarray") -> None:
    """First touch of every page, in order."""
    offsets = numpy.arange(0, len(array), PAGE)
    for offset in offsets:
        assert array[offset] == expected(offset), offset


def edges(array: "numpy.ndarray") -> None:
    """First and last byte of every page."""
    for start in range(0, len(array), PAGE):
        for offset in (start, start + PAGE - 1):
            assert array[offset] == expected(numpy.int64(offset)), offset


def scattered(array: "numpy.ndarray") -> None:
    """A linear congruential generator's order (Numerical Recipes)."""
    state = 12345
    for _ in range(4000):
        state = (1664525 * state + 1013904223) % (1 << 32)
        offset = state % len(array)
        assert array[offset] == expected(numpy.int64(offset)), offset


def strided(array: "numpy.ndarray") -> None:
    """Every sixteenth page, then the ones after them, until all are touched."""
    pages = len(array) // PAGE
    for first in range(16):
        for page in range(first, pages, 16):
            offset = page * PAGE + 17
            assert array[offset] == expected(numpy.int64(offset)), offset


def threads(array: "numpy.ndarray") -> None:
    """Four threads that start together, each over all pages in an order of its own."""
    barrier = threading.Barrier(4, timeout=20)
    wrong: list[int] = []

    def touch(turn: int) -> None:
        barrier.wait()
        order = numpy.random.default_rng(turn).permutation(len(array) // PAGE)
        for page in order:
            offset = int(page) * PAGE + turn
            if array[offset] != expected(numpy.int64(offset)):
                wrong.append(offset)

    workers = [threading.Thread(target=touch, args=(turn,)) for turn in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong, wrong[:3]


with weft.connect() as cluster:
    region = cluster.region(sys.argv[1])
    for pattern in (sequential, edges, scattered, strided, threads):
        with region.attach("read") as memory:
            array = memory.numpy()
            pattern(array)
            stats = memory.stats()
            del array
        assert stats.remote_faults > 0, stats
        assert stats.p99_latency_us is not None, stats
        print(f"{pattern.__name__} ok", flush=True)
