"""A trial of the way to a node: reads and writes of one size after the other, timed, and looked at byte for byte."""

import time
from typing import Final

import numpy as np
from msgspec import Struct

from weft._native import Connection
from weft.dataplane.holder import Party
from weft.model.errors import ObjectCorrupt
from weft.model.policy import CONNECT_MS_MAX, MIB

SIZES: Final = (8, 64, 512, 4096, 32_768, 262_144, MIB, 8 * MIB, 64 * MIB)
"""What is tried: from a counter to a whole frame."""
_BYTES_PER_SIZE: Final = 64 * MIB
_ROUNDS_MAX: Final = 1_000
_ROUNDS_MIN: Final = 4


class Figure(Struct, frozen=True, kw_only=True):
    """One size in one direction: the median, the ninety-ninth percentile, and what the median comes to."""

    operation: str
    size_bytes: int
    rounds: int
    p50_us: float
    p99_us: float
    gb_per_s: float


class Trial:
    """An extent of a node's, opened for writing, and a buffer beside it. For one thread."""

    def __init__(self, party: Party, host: str, port: int, *, grant: bytes, index: int, incarnation: int) -> None:
        self._connection = Connection(
            host=host,
            port=port,
            cluster_id=party.cluster_id,
            secret=party.secret,
            name=party.name,
            incarnation=party.incarnation,
            timeout_ms=CONNECT_MS_MAX,
        )
        self._handle, self.size_bytes = self._connection.open(grant, index, incarnation)

    def run(self, operation: str, size_bytes: int) -> Figure:
        """Moves `size_bytes` again and again, walking through the extent. Raises `ObjectCorrupt` for wrong bytes."""
        rounds = max(_ROUNDS_MIN, min(_ROUNDS_MAX, _BYTES_PER_SIZE // size_bytes))
        content = memoryview(bytearray(_content(size_bytes)))
        places = min(rounds, self.size_bytes // size_bytes)
        move = self._connection.read if operation == "read" else self._connection.write
        if operation == "read":
            for place in range(places):
                self._connection.write(self._handle, place * size_bytes, content)
        took = []
        for index in range(rounds + rounds // 10 + 1):
            started = time.perf_counter_ns()
            move(self._handle, index % places * size_bytes, content)
            took.append(time.perf_counter_ns() - started)
        seen = memoryview(bytearray(size_bytes))
        self._connection.read(self._handle, (places - 1) * size_bytes, seen)
        if seen != content or bytes(content) != _content(size_bytes):
            raise ObjectCorrupt(f"{size_bytes} bytes that were moved are not those that came back")
        timed = sorted(took[rounds // 10 + 1 :])
        p50 = timed[len(timed) // 2]
        return Figure(
            operation=operation,
            size_bytes=size_bytes,
            rounds=rounds,
            p50_us=p50 / 1e3,
            p99_us=timed[len(timed) * 99 // 100] / 1e3,
            gb_per_s=size_bytes / p50,
        )

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def _content(size_bytes: int) -> bytes:
    """Bytes of this size that are no pattern a fault would repeat."""
    return np.random.default_rng(size_bytes).bytes(size_bytes)
