"""Ending a process by SIGKILL at a named step, by wrapping the ports it was given. Nothing of this is in the product.

point = Failpoint("append.after", count=7)
coordinator = Coordinator(KilledJournal(journal, point), …, snapshots=KilledFolder(directory, key, point))

Steps: append.before, append.after (committed, and nobody was told), trim.before, trim.after, and of a snapshot
write.before, write.after, name.before, name.after, sync.before, sync.after, remove.before, remove.after.
"""

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from weft.ledger import Journal
from weft.ledger.layer import Commitment, Cursor, Layer, LayerHealth, Receipt, Scan
from weft.ledger.pending import PendingList
from weft.ledger.snapshot import SnapshotFolder
from weft.model.availability import Role
from weft.model.batch import SealedBatch
from weft.model.canonical import Digest
from weft.model.ids import Position
from weft.receipts import SigningKey

_WRITES: Final = ("append", "trim", "write", "name", "sync", "remove")
STEPS: Final = tuple(f"{verb}.{when}" for verb in _WRITES for when in ("before", "after"))
_SHIPS: Final = ("ship", "fall", "list", "bring", "settle")
SHIPPING_STEPS: Final = tuple(f"{verb}.{when}" for verb in _SHIPS for when in ("before", "after"))
"""Of a batch on its way: put to the primary, put to a fallback, put on the pending list, brought home, taken off it."""


class Failpoint:
    """Strikes when its step is passed for the so-manieth time."""

    def __init__(self, step: str, count: int = 1) -> None:
        assert step in STEPS + SHIPPING_STEPS, f"{step} is no step of {', '.join(STEPS + SHIPPING_STEPS)}"
        self._step = step
        self._left = count

    def passed(self, step: str) -> None:
        """A step is passed; this may be the last thing the process does."""
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class KilledJournal:
    """A journal whose process may end before or after it has kept something."""

    def __init__(self, inner: Journal, point: Failpoint) -> None:
        self._inner = inner
        self._point = point

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch."""
        return self._inner.batch_bytes_max

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch."""
        self._point.passed("append.before")
        await self._inner.append(sealed, expected_position)
        self._point.passed("append.after")

    async def trim(self, before: Position) -> None:
        """Let go of batches."""
        self._point.passed("trim.before")
        await self._inner.trim(before)
        self._point.passed("trim.after")

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        return await self._inner.read(after, count_max)

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        return await self._inner.oldest()

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        return await self._inner.tail()

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty journal go on after a position."""
        await self._inner.begin(after, digest)

    async def close(self) -> None:
        """Let go of what is held."""
        await self._inner.close()


class KilledLayer:
    """A layer whose process may end before or after it has put something there."""

    def __init__(self, inner: Layer, point: Failpoint, verb: Callable[[], str]) -> None:
        self._inner = inner
        self._point = point
        self._verb = verb

    @property
    def name(self) -> str:
        """The layer's."""
        return self._inner.name

    @property
    def blob_bytes_max(self) -> int:
        """The layer's."""
        return self._inner.blob_bytes_max

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob."""
        verb = self._verb()
        self._point.passed(f"{verb}.before")
        receipt = await self._inner.put(blob)
        self._point.passed(f"{verb}.after")
        return receipt

    async def get(self, commitment: Commitment) -> bytes:
        """A blob."""
        return await self._inner.get(commitment)

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What was kept after a cursor."""
        return await self._inner.scan(after, count_max)

    async def probe(self) -> LayerHealth:
        """Whether a put would work now."""
        return await self._inner.probe()

    async def close(self) -> None:
        """Let go of connections."""
        await self._inner.close()


class KilledList(PendingList):
    """A pending list whose process may end before or after it is written."""

    point: Failpoint

    async def add(
        self, commitment: str, source: Role, stored_at_ms: int, size_bytes: int, position: Position | None = None
    ) -> None:
        """Put a blob on the list."""
        self.point.passed("list.before")
        await super().add(commitment, source, stored_at_ms, size_bytes, position)
        self.point.passed("list.after")

    async def settle(self, commitments: Iterable[str]) -> None:
        """Take blobs off the list."""
        self.point.passed("settle.before")
        await super().settle(commitments)
        self.point.passed("settle.after")


class KilledFolder(SnapshotFolder):
    """A folder of snapshots whose process may end at any step of writing one."""

    def __init__(self, directory: Path, key: SigningKey, point: Failpoint) -> None:
        super().__init__(directory, key)
        self._point = point

    def _write_file(self, path: Path, envelopes: Iterable[bytes]) -> None:
        self._point.passed("write.before")
        super()._write_file(path, envelopes)
        self._point.passed("write.after")

    def _name(self, unfinished: Path, path: Path) -> None:
        self._point.passed("name.before")
        super()._name(unfinished, path)
        self._point.passed("name.after")

    def _sync_directory(self) -> None:
        self._point.passed("sync.before")
        super()._sync_directory()
        self._point.passed("sync.after")

    def _remove_old(self) -> None:
        self._point.passed("remove.before")
        super()._remove_old()
        self._point.passed("remove.after")
