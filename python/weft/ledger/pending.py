"""The pending list: blobs a fallback keeps and the primary does not, as far as anybody verified. On a disk of its own.

An entry is synced before the write it stands for is acknowledged, and only `settle`, called by whoever read the bytes
back from the primary, takes one off. There is no other way out: an entry whose retries are used up is *stuck* and
stays. Only a person who forces a rebuild of another log has the entries of the old one put aside, in a copy of the
list. A batch that no layer takes is on it as stuck, under the primary's name. What was settled is remembered for a
while, newest first, because both layers hold it and can be compared.

One SQLite file, WAL with `synchronous=FULL`, as the journal has it: what a `kill -9` or a power cut leaves of a
transaction that was not committed is cut off when the file is opened. Nothing but two counts is held in memory, so an
outage of a month needs no more of it than one of a minute.

The same file keeps *notes*: how far the log has come to the primary, and where a scan of a layer goes on. A note is
written now and then and is never ahead of the truth, so whoever starts with an old one only looks more up.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from weft.model.availability import PendingBlob, Role
from weft.model.errors import PendingFailed
from weft.model.ids import Position
from weft.model.policy import SETTLED_KEPT_MAX

Result = TypeVar("Result")

FILE_NAME: Final = "availability.sqlite"
SHIPPED: Final = "shipped"
"""The name of the note that says how far the log was shipped: the cluster's id in hex, a space, the position."""
SCHEMA_VERSION: Final = 1
LOG_COUNT_MAX: Final = 1_024
"""Pending batches are counted so far and no further: whoever asks wants to know whether they are few."""
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE pending (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    commitment TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    stored_at_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    position INTEGER,
    retry_count INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    is_stuck INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE settled (
    sequence INTEGER PRIMARY KEY,
    commitment TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL
);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE counts (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), pending INTEGER, stuck INTEGER);
INSERT INTO counts VALUES (0, 0, 0);
CREATE INDEX pending_by_stuck ON pending (is_stuck, sequence);
CREATE TRIGGER pending_added AFTER INSERT ON pending BEGIN
    UPDATE counts SET pending = pending + 1, stuck = stuck + NEW.is_stuck;
END;
CREATE TRIGGER pending_changed AFTER UPDATE OF is_stuck ON pending BEGIN
    UPDATE counts SET stuck = stuck + NEW.is_stuck - OLD.is_stuck;
END;
CREATE TRIGGER pending_settled AFTER DELETE ON pending BEGIN
    UPDATE counts SET pending = pending - 1, stuck = stuck - OLD.is_stuck;
END;
PRAGMA user_version = 1;
COMMIT;
"""
_OF_LOG: Final = "position IS NOT NULL AND is_stuck = 0"
_INDEX: Final = f"CREATE INDEX IF NOT EXISTS pending_of_log ON pending (sequence) WHERE {_OF_LOG}"
_OF_NONE: Final = f"source = '{Role.PRIMARY.value}'"
_INDEX_OF_NONE: Final = f"CREATE INDEX IF NOT EXISTS pending_of_none ON pending (position) WHERE {_OF_NONE}"
_COLUMNS: Final = "commitment, source, sequence, stored_at_ms, size_bytes, position, retry_count, last_error, is_stuck"

_REMEMBER: Final = (
    "INSERT OR REPLACE INTO settled (sequence, commitment, source) "
    "SELECT sequence, commitment, source FROM pending WHERE commitment = ?"
)
_SOURCES: Final = (
    "SELECT source FROM pending WHERE commitment = ?1 UNION SELECT source FROM settled WHERE commitment = ?1"
)


class PendingList:
    """The list in a directory, or in memory when there is none."""

    def __init__(self, directory: Path | None) -> None:
        """Open or create the list. Raises `PendingFailed`."""
        self.path = ":memory:" if directory is None else str(directory / FILE_NAME)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pending")
        self._connection = self._open()
        self._count, self._stuck_count, self._log_count, self._homeless = self._read_counts()

    @property
    def homeless_position(self) -> Position | None:
        """The first batch of the log that no layer takes, and that is therefore in none."""
        return self._homeless

    @property
    def count(self) -> int:
        """How many blobs the primary is not known to hold, stuck ones among them."""
        return self._count

    @property
    def stuck_count(self) -> int:
        """How many of them only a person has tried again."""
        return self._stuck_count

    @property
    def log_count(self) -> int:
        """How many batches of the log are on it and not stuck, up to a bound."""
        return self._log_count

    async def add(
        self, commitment: str, source: Role, stored_at_ms: int, size_bytes: int, position: Position | None = None
    ) -> None:
        """Put a blob on the list; it is on the disk when this returns. One that is on it already stays as it is.

        A blob that was settled before is pending again: a fallback took it anew, so the primary is asked anew.
        """
        row = (commitment, source.value, stored_at_ms, size_bytes, position)
        statement = (
            "INSERT INTO pending (commitment, source, stored_at_ms, size_bytes, position) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (commitment) DO NOTHING"
        )
        await self._write([(statement, row)])

    async def settle(self, commitments: Iterable[str]) -> None:
        """Take blobs off the list. Only for whoever has read their bytes back from the primary."""
        statements: list[tuple[str, tuple[Any, ...]]] = []
        for commitment in commitments:
            statements += [(_REMEMBER, (commitment,)), ("DELETE FROM pending WHERE commitment = ?", (commitment,))]
        oldest_kept = "(SELECT max(sequence) FROM settled) - ?"
        statements.append((f"DELETE FROM settled WHERE sequence <= {oldest_kept}", (SETTLED_KEPT_MAX,)))  # noqa: S608
        await self._write(statements)

    async def note_failure(self, commitment: str, error: str, *, is_stuck: bool) -> None:
        """A try to bring a blob to the primary failed."""
        statement = (
            "UPDATE pending SET retry_count = retry_count + 1, last_error = ?, is_stuck = ? WHERE commitment = ?"
        )
        await self._write([(statement, (error, int(is_stuck), commitment))])

    async def free_stuck(self) -> int:
        """Have stuck blobs tried again, from the first retry; says how many there were."""
        freed = self._stuck_count
        await self._write([("UPDATE pending SET is_stuck = 0, retry_count = 0 WHERE is_stuck = 1", ())])
        return freed

    async def read(self, after_sequence: int, count_max: int, *, is_stuck: bool | None = None) -> list[PendingBlob]:
        """Blobs in the order they are to reach the primary; all, only the stuck ones, or only the others."""
        where, values = "sequence > ?", [after_sequence]
        if is_stuck is not None:
            where, values = f"{where} AND is_stuck = ?", [after_sequence, int(is_stuck)]
        query = f"SELECT {_COLUMNS} FROM pending WHERE {where} ORDER BY sequence LIMIT ?"  # noqa: S608
        rows = await self._run(lambda: self._query(query, (*values, count_max)))
        return [_blob(row) for row in rows]

    async def sources(self, commitment: str) -> list[Role]:
        """The fallbacks a blob was put to, as far as they are remembered."""
        query = (
            "SELECT source FROM pending WHERE commitment = ?1 UNION SELECT source FROM settled WHERE commitment = ?1"
        )
        return [Role(row[0]) for row in await self._run(lambda: self._query(query, (commitment,)))]

    async def first_position(self) -> Position | None:
        """The first batch of the log that is on the list, stuck ones among it; None when none is."""
        rows = await self._run(lambda: self._query("SELECT min(position) FROM pending", ()))
        return None if rows[0][0] is None else Position(rows[0][0])

    async def settled(self, count_max: int) -> list[tuple[str, Role]]:
        """What was pending once and is no more, with the fallback that kept it; newest first."""
        query = "SELECT commitment, source FROM settled ORDER BY sequence DESC LIMIT ?"
        return [(row[0], Role(row[1])) for row in await self._run(lambda: self._query(query, (count_max,)))]

    async def note(self, name: str, value: str) -> None:
        """Remember something under a name."""
        statement = "INSERT INTO notes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        await self._write([(statement, (name, value))])

    async def noted(self, name: str) -> str | None:
        """What was remembered under a name."""
        rows = await self._run(lambda: self._query("SELECT value FROM notes WHERE name = ?", (name,)))
        return rows[0][0] if rows else None

    async def put_aside(self, commitments: Sequence[str], path: Path) -> None:
        """Take entries off that belong to a log that was given up, and forget how far it was shipped.

        The whole list, as it was, is in a file of its own before anything is taken off it.
        """
        await self._run(lambda: self._copy(path))
        statements: list[tuple[str, tuple[Any, ...]]] = [
            ("DELETE FROM pending WHERE commitment = ?", (commitment,)) for commitment in commitments
        ]
        await self._write([*statements, ("DELETE FROM notes WHERE name = ?", (SHIPPED,))])

    async def close(self) -> None:
        """Finish what is under way and close the file. What is on the list stays."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _write(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        await self._run(lambda: self._commit(statements))

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> sqlite3.Connection:
        try:
            # One thread works with it at a time; which one it is differs between the first look and all others.
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(_SCHEMA)
            if version in (0, SCHEMA_VERSION):
                connection.execute(_INDEX)
                connection.execute(_INDEX_OF_NONE)
        except sqlite3.Error as error:
            raise self._failed("cannot be opened", error) from error
        if version not in (0, SCHEMA_VERSION):
            connection.close()
            raise PendingFailed(
                f"{self.path} has layout {version}; this version of Weft reads layout {SCHEMA_VERSION}", path=self.path
            )
        return connection

    def _commit(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._failed("cannot be written", error) from error
        # Here and not by who waits for it: that one may have gone away, and the counts are right all the same.
        self._count, self._stuck_count, self._log_count, self._homeless = self._read_counts()

    def _copy(self, path: Path) -> None:
        try:
            with closing(sqlite3.connect(path)) as copy:
                copy.execute("PRAGMA synchronous=FULL")
                self._connection.backup(copy)
        except sqlite3.Error as error:
            raise self._failed(f"cannot be copied to {path}", error) from error

    def _query(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed("cannot be read", error) from error

    def _read_counts(self) -> tuple[int, int, int, Position | None]:
        ((count, stuck_count),) = self._query("SELECT pending, stuck FROM counts", ())
        few = f"SELECT count(*) FROM (SELECT 1 FROM pending WHERE {_OF_LOG} LIMIT ?)"  # noqa: S608
        ((log_count,),) = self._query(few, (LOG_COUNT_MAX,))
        none = f"SELECT min(position) FROM pending WHERE {_OF_NONE}"  # noqa: S608
        ((homeless,),) = self._query(none, ())
        return count, stuck_count, log_count, None if homeless is None else Position(homeless)

    def _failed(self, what: str, error: sqlite3.Error) -> PendingFailed:
        return PendingFailed(f"{self.path} {what}: {error}", path=self.path)


def _blob(row: tuple[Any, ...]) -> PendingBlob:
    commitment, source, sequence, stored_at_ms, size_bytes, position, retry_count, last_error, is_stuck = row
    return PendingBlob(
        commitment=commitment,
        source=Role(source),
        sequence=sequence,
        stored_at_ms=stored_at_ms,
        size_bytes=size_bytes,
        position=None if position is None else Position(position),
        retry_count=retry_count,
        last_error=last_error,
        is_stuck=bool(is_stuck),
    )
