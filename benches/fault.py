"""Weft's side of the paging figures: `python -m benches.fault unpinned|one_cpu random|in_order PAGES` prints JSON."""

import json
import os
import random
import sys
import time

import numpy as np

from benches.lender import CLUSTER_ID, INCARNATION, SECRET, Lender, congestion, grant
from weft import _native

PAGE_BYTES = 4096


def main() -> None:
    placement, order, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if placement == "one_cpu":
        os.sched_setaffinity(0, {0})
    stripe_bytes = 2 << 20
    size_bytes = -(-pages * PAGE_BYTES // stripe_bytes) * stripe_bytes
    with Lender(size_bytes) as lender:
        with lender.connect() as peer:
            peer.write_now(lender.extent(), np.arange(size_bytes // 8, dtype="u8"))
        window = _native.Window.attach_region(
            region="bench",
            size_bytes=size_bytes,
            mode="read",
            bands=[(0, size_bytes // stripe_bytes, [(0, "lender", INCARNATION)])],
            peers=[("lender", "127.0.0.1", lender.port)],
            grant=grant(),
            cluster_id=CLUSTER_ID,
            secret=SECRET,
            name="bench",
            incarnation=6,
            congestion=congestion(),
        )
        memory = memoryview(window)
        print(json.dumps(touch_at_random(memory, pages) if order == "random" else touch_in_order(memory, pages)))
        memory.release()
        window.close()


def touch_at_random(memory: memoryview, pages: int) -> dict[str, float]:
    """Every page once, in no order, a Python index each."""
    words = memory.cast("B").cast("Q")
    numbers = random.Random(1).sample(range(pages), pages)
    took, started_all = [], time.perf_counter_ns()
    for number in numbers:
        index = number * (PAGE_BYTES // 8)
        started = time.perf_counter_ns()
        value = words[index]
        took.append(time.perf_counter_ns() - started)
        assert value == index, "the wrong page came"
    seconds = (time.perf_counter_ns() - started_all) / 1e9
    took.sort()
    return {
        "p50_us": took[pages // 2] / 1e3,
        "p99_us": took[pages * 99 // 100] / 1e3,
        "pages_per_s": pages / seconds,
    }


def touch_in_order(memory: memoryview, pages: int) -> dict[str, float]:
    """A word of every page, first to last, in one NumPy call."""
    words = np.frombuffer(memory, dtype="u8")[:: PAGE_BYTES // 8][:pages]
    started = time.perf_counter_ns()
    total = int(words.sum())
    seconds = (time.perf_counter_ns() - started) / 1e9
    assert total == (PAGE_BYTES // 8) * pages * (pages - 1) // 2, "the wrong pages came"
    return {"pages_per_s": pages / seconds}


if __name__ == "__main__":
    main()
