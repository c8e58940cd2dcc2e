"""The demo's fourth process: attaches the sealed region and reads it twice, in order and at random.

Run as `python -m weft.cli.demo.reader REGION SIZE_BYTES`. Prints one JSON object a line: `{"read_bytes": …}` while it
reads, and at the end a `Reading`. It knows nothing of the files; whether the bytes are right is for the demo to say.
"""

import random
import sys
import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from weft.cli.demo.corpus import BLOCK_BYTES, Fingerprint, fingerprint
from weft.client import Region, connect
from weft.dataplane import FaultStats

PAGE_BYTES = 4096
# Pages read at random: enough for a p99 that means something, few enough for a second or two on one core.
_RANDOM_PAGES_MAX = 8_192
# A progress line every so many bytes.
_PROGRESS_BYTES = 16 << 20


class Pass(Struct, frozen=True, kw_only=True):
    """One way of reading: how much, how fast, and what the faults cost."""

    read_bytes: int
    duration_s: float
    faults: FaultStats

    @property
    def megabytes_per_s(self) -> float:
        """Decimal megabytes a second."""
        return self.read_bytes / 1e6 / self.duration_s if self.duration_s else 0.0


class Reading(Struct, frozen=True, kw_only=True):
    """What the reader saw."""

    fingerprint: Fingerprint
    in_order: Pass
    at_random: Pass


class ReadSoFar(Struct, frozen=True, kw_only=True):
    """How far the reader is."""

    read_bytes: int


def main() -> None:
    """Reads the region named on the command line."""
    name, size_bytes = sys.argv[1], int(sys.argv[2])
    with connect() as cluster:
        region = cluster.region(name)
        seen, in_order = _read_in_order(region, size_bytes)
        at_random = _read_at_random(region, size_bytes)
    _say(Reading(fingerprint=seen, in_order=in_order, at_random=at_random))


def _read_in_order(region: Region, size_bytes: int) -> tuple[Fingerprint, Pass]:
    with region.attach("read") as memory:
        blocks = _Blocks()
        with memory.buffer as buffer:
            seen = fingerprint(blocks.of(buffer[:size_bytes]))
        return seen, Pass(read_bytes=size_bytes, duration_s=blocks.touching_s, faults=memory.stats())


class _Blocks:
    """A buffer block by block, each page of it touched first: the time of that is paging alone, without hashing."""

    def __init__(self) -> None:
        self.touching_s = 0.0

    def of(self, buffer: memoryview) -> Iterator[memoryview]:
        for start in range(0, len(buffer), BLOCK_BYTES):
            with buffer[start : start + BLOCK_BYTES] as block:
                started_s = time.monotonic()
                bytes(block[::PAGE_BYTES])
                self.touching_s += time.monotonic() - started_s
                yield block
            if start % _PROGRESS_BYTES == 0:
                _say(ReadSoFar(read_bytes=start))


def _read_at_random(region: Region, size_bytes: int) -> Pass:
    """Another attachment, so that every page is absent again; whole pages, each once, in an order nobody can guess."""
    pages = list(range(size_bytes // PAGE_BYTES))
    random.Random(size_bytes).shuffle(pages)  # noqa: S311 - an order, not a secret
    del pages[_RANDOM_PAGES_MAX:]
    with region.attach("read") as memory, memory.buffer as buffer:
        started_s = time.monotonic()
        for page in pages:
            bytes(buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
        duration_s = time.monotonic() - started_s
        return Pass(read_bytes=len(pages) * PAGE_BYTES, duration_s=duration_s, faults=memory.stats())


def _say(message: ReadSoFar | Reading) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
