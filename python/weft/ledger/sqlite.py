"""The default journal: one SQLite file, one process, one thread that writes.

WAL with `synchronous=FULL`: a commit returns when the disk has it, and readers of the file are never in the way. One
row a batch, so a sync is shared by every command in it; one by one SQLite makes 4.5 thousand events a second durable,
in batches 85 thousand.

The note of the tail is written in the same transaction as the batch, so rows that were cut off the end are missed.
What it cannot show is a whole file put back from an older copy: to the journal that is an earlier time.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from weft.ledger.chain import StoredBatch, damaged, not_empty, too_large, trimmed, verify_run
from weft.ledger.lock import ProcessLock
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import JournalDamaged, JournalFailed, PositionTaken
from weft.model.ids import Position
from weft.model.policy import BATCH_BYTES_MAX

Result = TypeVar("Result")

FILE_NAME: Final = "journal.sqlite"
UNFINISHED: Final = "rebuilding"
"""A directory beside the journal in which another one is being rebuilt; nobody opens the old one meanwhile."""
SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE batches (
    position INTEGER PRIMARY KEY,
    parent BLOB NOT NULL,
    digest BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE tail (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), position INTEGER NOT NULL, digest BLOB NOT NULL);
INSERT INTO tail VALUES (0, 0, zeroblob(32));
PRAGMA user_version = 1;
COMMIT;
"""
_BEGINNING: Final = """
BEGIN IMMEDIATE;
ALTER TABLE tail ADD COLUMN first INTEGER NOT NULL DEFAULT 1;
PRAGMA user_version = 2;
COMMIT;
"""
"""A journal may begin later than at 1: below `first` it was trimmed, and a missing row there is no damage."""
_NOTE_TAIL: Final = """
CREATE TEMP TRIGGER note_tail AFTER INSERT ON main.batches BEGIN
    UPDATE tail SET position = NEW.position, digest = NEW.digest;
END
"""
_APPEND: Final = "INSERT INTO batches SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM tail WHERE position = ?)"
"""The whole transaction in one statement. Each one costs this thread the interpreter's lock once more, and while the
event loop is busy that is dearer than what the statement does."""


class SqliteJournal:
    """A journal in `directory`. Only the thread this object owns touches the file."""

    batch_bytes_max = BATCH_BYTES_MAX

    def __init__(self, directory: Path) -> None:
        """Open or create the journal. Raises `JournalLocked` when another process has it, `JournalFailed` otherwise."""
        self.path = directory / FILE_NAME
        self._lock = ProcessLock.take(directory / f"{FILE_NAME}.lock")
        if (directory / UNFINISHED).exists():
            self._lock.release()
            raise JournalFailed(
                f"a rebuild of {self.path} was begun and not finished; run weft ledger rebuild again",
                path=str(self.path),
            )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            self._connection = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            self._lock.release()
            raise

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`; it is on the disk when this returns."""
        if len(sealed.body) > self.batch_bytes_max:
            raise too_large(str(self.path), len(sealed.body), self.batch_bytes_max)
        await self._run(lambda: self._append(sealed, expected_position))

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        return await self._run(lambda: self._read(after, count_max))

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        return await self._run(self._oldest)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        return await self._run(lambda: self._tail()[0])

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position. The file keeps its size, and what comes next fills it again."""
        await self._run(lambda: self._trim(before))

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty journal go on after a position."""
        await self._run(lambda: self._begin(after, digest))

    async def close(self) -> None:
        """Finish what is under way, close the file and let the next process in."""
        await self._run(self._connection.close)
        self._thread.shutdown()
        self._lock.release()

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=True)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(_SCHEMA)
            if version in (0, 1):
                connection.executescript(_BEGINNING)
            connection.execute(_NOTE_TAIL)
        except sqlite3.Error as error:
            raise JournalFailed(f"cannot open {self.path}: {error}", path=str(self.path)) from error
        if version > SCHEMA_VERSION:
            connection.close()
            raise JournalFailed(
                f"{self.path} has layout {version}; this version of Weft reads layout {SCHEMA_VERSION}",
                path=str(self.path),
            )
        return connection

    def _append(self, sealed: SealedBatch, expected_position: Position) -> None:
        batch = sealed.batch
        try:
            kept = self._connection.execute(
                _APPEND, (batch.position, batch.parent, sealed.digest, sealed.body, expected_position)
            )
            if kept.rowcount != 1:
                position, _ = self._tail()
                raise PositionTaken(
                    f"the tail of {self.path} is at {position}, not at {expected_position}",
                    path=str(self.path),
                    position=position,
                )
        except sqlite3.Error as error:
            raise JournalFailed(f"cannot append to {self.path}: {error}", path=str(self.path)) from error

    def _read(self, after: Position, count_max: int) -> list[SealedBatch]:
        path = str(self.path)
        try:
            first = self._first()
            if after + 1 < first:
                raise trimmed(path, after + 1, first)
            parent = self._digest_at(after, first)
            rows = self._connection.execute(
                "SELECT position, parent, digest, body FROM batches WHERE position > ? ORDER BY position LIMIT ?",
                (after, count_max),
            ).fetchall()
            tail, tail_digest = self._tail()
        except sqlite3.Error as error:
            raise JournalDamaged(
                f"{path} cannot be read after position {after}: {error}; restore it from a copy",
                path=path,
                position=after + 1,
            ) from error
        run = verify_run(map(StoredBatch._make, rows), after, parent, path)
        reached = after + len(run)
        if reached < tail and len(run) < count_max:
            raise damaged(path, reached + 1, "is missing")
        if reached > tail or (reached == tail and run and run[-1].digest != tail_digest):
            raise damaged(path, reached, "is not the last one the journal noted")
        return run

    def _trim(self, before: Position) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE tail SET first = max(first, min(?, position))", (before,))
            connection.execute("DELETE FROM batches WHERE position < (SELECT first FROM tail)")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise JournalFailed(f"cannot trim {self.path}: {error}", path=str(self.path)) from error

    def _begin(self, after: Position, digest: Digest) -> None:
        try:
            moved = self._connection.execute(
                "UPDATE tail SET first = ?, position = ?, digest = ? WHERE position = 0", (after + 1, after, digest)
            )
        except sqlite3.Error as error:
            raise JournalFailed(f"cannot begin {self.path}: {error}", path=str(self.path)) from error
        if moved.rowcount != 1:
            raise not_empty(str(self.path), self._tail()[0])

    def _first(self) -> int:
        (first,) = self._connection.execute("SELECT first FROM tail").fetchone() or (1,)
        return int(first)

    def _digest_at(self, position: Position, first: int) -> Digest | None:
        if position == 0:
            return NO_DIGEST
        if position < first:
            return None
        row = self._connection.execute("SELECT digest FROM batches WHERE position = ?", (position,)).fetchone()
        if row is None:
            raise damaged(str(self.path), position, "is missing")
        return Digest(row[0])

    def _oldest(self) -> Position:
        first, (tail, _) = self._first(), self._tail()
        return Position(first if first <= tail else 0)

    def _tail(self) -> tuple[Position, Digest]:
        row = self._connection.execute("SELECT position, digest FROM tail").fetchone()
        if row is None:
            raise JournalFailed(f"{self.path} has lost the note of its tail", path=str(self.path))
        return Position(row[0]), Digest(row[1])
