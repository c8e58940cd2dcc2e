"""Ending a process by SIGKILL at a named step, by wrapping the ports it was given. Nothing of this is in the product.

point = Failpoint("append.after", count=7)
coordinator = Coordinator(KilledJournal(journal, point), …, snapshots=KilledFolder(directory, key, point))

Steps: append.before, append.after (committed, and nobody was told), trim.before, trim.after, and of a snapshot
write.before, write.after, name.before, name.after, sync.before, sync.after, remove.before, remove.after.
"""

import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from weft.ledger import Journal
from weft.ledger.snapshot import SnapshotFolder
from weft.model.batch import SealedBatch
from weft.model.canonical import Digest
from weft.model.ids import Position
from weft.receipts import SigningKey

_WRITES: Final = ("append", "trim", "write", "name", "sync", "remove")
STEPS: Final = tuple(f"{verb}.{when}" for verb in _WRITES for when in ("before", "after"))


class Failpoint:
    """Strikes when its step is passed for the so-manieth time."""

    def __init__(self, step: str, count: int = 1) -> None:
        assert step in STEPS, f"{step} is no step of {', '.join(STEPS)}"
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
