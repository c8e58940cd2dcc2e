"""The GPU's unpack beside a device copy, a loop of copies and a batched copy: `python -m benches.gpu_unpack`.

All move the same bytes inside the device's memory; times are the driver's own, between events. Without a GPU it says
so and stops: it never guesses a figure.
"""

import importlib
import json
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from weft._native import UnpackBlock
from weft.dataplane import gpu
from weft.model.errors import NotSupported

KIB, MIB = 1 << 10, 1 << 20
MOVED_BYTES = 256 * MIB
ROOM_BYTES = 64 * KIB
COUNT = 20
# A loop of copies is slow enough to be cut short; its rate is that of what it moved.
LOOP_MAX = 4096
SIZES = (512, 4 * KIB, 64 * KIB)


class Bench:
    """A device with two buffers, and the ways to move between them."""

    def __init__(self) -> None:
        self.unpack = gpu.GpuUnpack(grid_max=1 << 20)
        self.core, self.driver = importlib.import_module("cuda.core"), importlib.import_module("cuda.bindings.driver")
        self.device = self.core.Device(0)
        self.stream = self.unpack.stream
        memory = self.core.DeviceMemoryResource(self.device)
        self.size = MOVED_BYTES + ROOM_BYTES
        self.bounce = memory.allocate(self.size, stream=self.stream)
        self.target = memory.allocate(self.size, stream=self.stream)
        self.random = np.random.default_rng(1).integers(0, 256, self.size, dtype=np.uint8)
        code, *_ = self.driver.cuMemcpyHtoD(int(self.bounce.handle), self.random.ctypes.data, self.size)
        assert int(code) == 0, code

    def rate(self, moved: int, work: Callable[[], object]) -> float:
        """GB/s of the median of so many, between two events on the stream."""
        timing, took = self.core.EventOptions(timing_enabled=True), []
        kept = []
        for _ in range(COUNT + 2):
            before = self.stream.record(options=timing)
            kept.append(work())
            after = self.stream.record(options=timing)
            after.sync()
            took.append(after - before)
        return moved / (statistics.median(took[2:]) * 1e6)

    def copy(self) -> None:
        code, *_ = self.driver.cuMemcpyDtoDAsync(
            int(self.target.handle), int(self.bounce.handle), MOVED_BYTES, self.stream.handle
        )
        assert int(code) == 0, code

    def loop(self, fragments: list[tuple[int, int, int]]) -> None:
        into, source, stream = int(self.target.handle), int(self.bounce.handle), self.stream.handle
        for at, length, place in fragments:
            self.driver.cuMemcpyDtoDAsync(into + place, source + at, length, stream)

    def batch(self, fragments: list[tuple[int, int, int]]) -> Callable[[], object]:
        into, source = int(self.target.handle), int(self.bounce.handle)
        buffer = self.core.Buffer.from_handle
        sources = [buffer(source + at, length, mr=None) for at, length, _ in fragments]
        targets = [buffer(into + place, length, mr=None) for _, length, place in fragments]
        copy_batch = importlib.import_module("cuda.core.utils").copy_batch
        return lambda: copy_batch(self.stream, sources, targets)

    def check(self, fragments: list[tuple[int, int, int]]) -> None:
        """The target holds what the CPU would have put there, and nothing else."""
        got = np.empty(self.size, np.uint8)
        code, *_ = self.driver.cuMemcpyDtoH(got.ctypes.data, int(self.target.handle), self.size)
        assert int(code) == 0, code
        expected = np.full(self.size, 0xEE, np.uint8)
        for at, length, place in fragments:
            expected[place : place + length] = self.random[at : at + length]
        assert np.array_equal(got, expected), "the GPU gathered something else"


def fragments_of(size: int, shift: int) -> list[tuple[int, int, int]]:
    random = np.random.default_rng(size + shift)
    count = MOVED_BYTES // size
    pairs = zip(random.permutation(count), random.permutation(count), strict=True)
    return [(int(source) * size + shift, size, int(place) * size + 2 * shift) for source, place in pairs]


def main() -> None:
    try:
        bench = Bench()
    except NotSupported as error:
        print(f"{error}\nNothing was measured: the GPU's figures need a GPU.")
        return
    device_copy = bench.rate(MOVED_BYTES, bench.copy)
    print(f"{bench.device.name}: device copy {device_copy:.0f} GB/s of payload")
    print(f"{'fragments':22}{'unpack':>10}{'of copy':>10}{'loop':>10}{'batch':>10}")
    results: dict[str, Any] = {"device": bench.device.name, "device_copy": device_copy, "rows": []}
    for size in SIZES:
        for shift in (0, 5):
            fragments = fragments_of(size, shift)
            blocks = [
                UnpackBlock.of(part, bench.size, bench.size)
                for part in (fragments[start : start + 64] for start in range(0, len(fragments), 64))
            ]
            source, into = int(bench.bounce.handle), int(bench.target.handle)
            launch = lambda: bench.unpack.launch(blocks, source, bench.size, into, bench.size)  # noqa: B023, E731
            bench.driver.cuMemsetD8Async(into, 0xEE, bench.size, bench.stream.handle)
            launch().wait()
            bench.check(fragments)
            unpack = bench.rate(MOVED_BYTES, launch)
            some = fragments[:LOOP_MAX]
            loop = bench.rate(len(some) * size, lambda: bench.loop(some))  # noqa: B023
            batch = bench.rate(len(some) * size, bench.batch(some))
            name = f"{size} B{', misaligned' if shift else ''}"
            print(f"{name:22}{unpack:>10.0f}{unpack / device_copy:>10.2f}{loop:>10.1f}{batch:>10.1f}")
            results["rows"].append({"fragments": name, "unpack": unpack, "loop": loop, "batch": batch})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
