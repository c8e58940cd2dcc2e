"""A journal on a disk, with what to do said behind every refusal of the disk.

A layer around a journal and nothing in it: which error of SQLite means which state of a disk is known here once. What a
full disk refused is not in the journal, so the writer says so to whoever waited, and the next batch is tried like any
other: once there is room again, nobody has to do anything.
"""

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from weft.ledger.journal import Journal
from weft.ledger.sqlite import SqliteJournal
from weft.model.batch import SealedBatch
from weft.model.canonical import Digest
from weft.model.errors import JournalFailed
from weft.model.ids import Position
from weft.model.remedy import with_remedy

_NUMBERS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
_PRIMARY: Final = 0xFF
"""SQLite's codes say more in their higher bits; the lowest eight are the kind."""


def open_disk_journal(directory: Path) -> Journal:
    """The journal of a directory. Raises `JournalLocked`, or `JournalFailed` with what to do about it."""
    with _advice():
        return DiskJournal(SqliteJournal(directory))


class DiskJournal:
    """A journal whose refusals say what to do about the disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch it takes."""
        return self._journal.batch_bytes_max

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`; see `Journal`."""
        with _advice():
            await self._journal.append(sealed, expected_position)

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        return await self._journal.read(after, count_max)

    async def oldest(self) -> Position:
        """The position of the oldest batch that is still kept."""
        return await self._journal.oldest()

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        return await self._journal.tail()

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position."""
        with _advice():
            await self._journal.trim(before)

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty journal go on after a position."""
        with _advice():
            await self._journal.begin(after, digest)

    async def close(self) -> None:
        """Let go of what is held."""
        await self._journal.close()


@contextmanager
def _advice() -> Iterator[None]:
    """Put what to do behind what SQLite says. The other kinds of failure say it themselves."""
    try:
        yield
    except JournalFailed as error:
        cause = error.__cause__
        if type(error) is not JournalFailed or not isinstance(cause, sqlite3.Error):
            raise
        number = _NUMBERS.get(getattr(cause, "sqlite_errorcode", 0) & _PRIMARY)
        raise JournalFailed(with_remedy(error.message, number), **error.facts) from cause
