"""A trial of the way to a node: reads and writes of one size after the other, timed, and looked at byte for byte."""

import time
from typing import Final

import numpy as np
from msgspec import Struct

from weft.dataplane.endpoint import Advert, Peer
from weft.model.errors import ObjectCorrupt
from weft.model.policy import MIB

SIZES: Final = (8, 64, 512, 4096, 32_768, 262_144, MIB, 8 * MIB, 64 * MIB)
"""What is tried: from a counter to a whole frame."""
_BYTES_PER_SIZE: Final = 64 * MIB
_ROUNDS_MAX: Final = 1_000
_ROUNDS_MIN: Final = 4


class Figure(Struct, frozen=True, kw_only=True):
    """One size in one direction: the median, the ninety-ninth percentile, what the median comes to, and which way."""

    operation: str
    transport: str
    size_bytes: int
    rounds: int
    p50_us: float
    p99_us: float
    gb_per_s: float


class Trial:
    """An extent of a node's that may be written, and as many bytes beside it. For one thread.

    Every place of the extent holds other bytes, so that an answer from the wrong place, or none at all, is seen.
    """

    def __init__(self, peer: Peer, extent: Advert) -> None:
        self._peer = peer
        self._extent = extent
        self.size_bytes = extent.size_bytes
        self._content = memoryview(np.random.default_rng(1).bytes(min(self.size_bytes, _BYTES_PER_SIZE)))

    def run(self, operation: str, size_bytes: int) -> Figure:
        """Moves `size_bytes` again and again, walking through the extent. Raises `ObjectCorrupt` for wrong bytes."""
        rounds = max(_ROUNDS_MIN, min(_ROUNDS_MAX, _BYTES_PER_SIZE // size_bytes))
        warm = rounds // 10 + 1
        places = min(rounds, len(self._content) // size_bytes)
        took = []
        if operation == "read":
            self._fill(size_bytes, places)
            seen = memoryview(bytearray(size_bytes))
            for index in range(rounds + warm):
                place = index % places
                started = time.perf_counter_ns()
                self._peer.read_now(self._extent, seen, offset=place * size_bytes)
                took.append(time.perf_counter_ns() - started)
                self._check(seen, place)
                if places == 1:
                    seen[:] = bytes(size_bytes)
        else:
            for index in range(rounds + warm):
                place = index % places
                part = self._part(size_bytes, place)
                started = time.perf_counter_ns()
                self._peer.write_now(self._extent, part, offset=place * size_bytes)
                took.append(time.perf_counter_ns() - started)
            seen = memoryview(bytearray(size_bytes))
            for place in range(places):
                self._peer.read_now(self._extent, seen, offset=place * size_bytes)
                self._check(seen, place)
            self._wipe()
        timed = sorted(took[warm:])
        p50 = timed[len(timed) // 2]
        return Figure(
            operation=operation,
            transport=self._peer.transport,
            size_bytes=size_bytes,
            rounds=rounds,
            p50_us=p50 / 1e3,
            p99_us=timed[len(timed) * 99 // 100] / 1e3,
            gb_per_s=size_bytes / p50,
        )

    def _fill(self, size_bytes: int, places: int) -> None:
        for place in range(places):
            self._peer.write_now(self._extent, self._part(size_bytes, place), offset=place * size_bytes)

    def _wipe(self) -> None:
        """What the next size writes must not be there already."""
        self._peer.write_now(self._extent, bytes(len(self._content)))

    def _part(self, size_bytes: int, place: int) -> memoryview:
        return self._content[place * size_bytes : (place + 1) * size_bytes]

    def _check(self, seen: memoryview, place: int) -> None:
        if seen != self._part(len(seen), place):
            raise ObjectCorrupt(f"{len(seen)} bytes at place {place} are not those that were written there")
