"""A journal in PostgreSQL: one row a batch, one statement an append.

The statement moves the note of the tail from the expected position to the next, and inserts the batch; where the note
is elsewhere it changes nothing and says so. The note's row is locked for as long as that takes, so of two writers one
waits and is then refused. A sequence would not do: its order is not the order of commits, and a reader could pass a row
that is not there yet. What if the answer is lost? The connection is gone, and with it either nothing or all of the
statement; reading the tail says which, and what still commits after that takes the position the next append expects.

`synchronous_commit` is on for the session whatever the server's default is, and a server with `fsync` off is refused.
Followers listen to a notification that is sent with the commit. The pulse is a row in a table that is not logged: a
crash of the server empties it, which costs a follower one lease of waiting.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import asyncpg

from weft.ledger.chain import StoredBatch, damaged, not_empty, too_large, trimmed, verify_run
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import Closed, JournalFailed, Misconfigured, PositionTaken
from weft.model.ids import Position
from weft.model.journal import JournalPlace
from weft.model.policy import (
    BATCH_BYTES_MAX,
    CONNECT_MS_MAX,
    JOURNAL_APPEND_MS_MAX,
    JOURNAL_CONNECT_MS_MAX,
    REQUEST_MS_MAX,
)

_SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS "{name}";
CREATE TABLE IF NOT EXISTS "{name}".batches (
    position bigint PRIMARY KEY, parent bytea NOT NULL, digest bytea NOT NULL, body bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS "{name}".tail (
    only_row integer PRIMARY KEY CHECK (only_row = 0),
    first bigint NOT NULL, position bigint NOT NULL, digest bytea NOT NULL
) WITH (fillfactor = 10);
INSERT INTO "{name}".tail VALUES (0, 1, 0, decode(repeat('00', 32), 'hex')) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS "{name}".pulse (
    only_row integer PRIMARY KEY CHECK (only_row = 0), sign bytea NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE IF NOT EXISTS "{name}".note (
    only_row integer PRIMARY KEY CHECK (only_row = 0), content bytea NOT NULL
) WITH (fillfactor = 10);
"""
_APPEND: Final = """
WITH moved AS (UPDATE "{name}".tail SET position = $2, digest = $4 WHERE position = $1 RETURNING position)
INSERT INTO "{name}".batches SELECT $2, $3, $4, $5 FROM moved
RETURNING pg_notify('{name}_journal', position::text)
"""
"""No row when the tail is elsewhere. Who comes second waits for the note's lock, and then finds it elsewhere."""
_PREPARING: Final = 0x77656674
"""The advisory lock under which the schema is made, the letters weft: two coordinators may start at the same moment."""
_POOL_MAX: Final = 3
_SESSION: Final = {"application_name": "weft", "jit": "off", "synchronous_commit": "on"}
_ENGINE_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the client says of a connection that the server ended between two of its own messages.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class PostgresJournal:
    """A journal in the schema `place.name`. `open` makes it where it is missing."""

    batch_bytes_max = BATCH_BYTES_MAX

    def __init__(self, place: JournalPlace, pool: Any) -> None:
        self.path = place.shown
        self._name = place.name
        self._schema = f'"{place.name}"'
        self._address = place.servers[0]
        self._pool = pool
        self._ear: Any = None
        self._pen: Any = None
        self._append: Any = None
        self._appending = asyncio.Lock()
        self._told = asyncio.Event()
        self._told_position = 0
        self._closed = False

    @classmethod
    async def open(cls, place: JournalPlace) -> "PostgresJournal":
        """Connect. Raises `JournalFailed` when nobody answers, `Misconfigured` when the server does not sync."""
        try:
            async with asyncio.timeout(JOURNAL_CONNECT_MS_MAX / 1_000):
                pool = await asyncpg.create_pool(
                    place.servers[0],
                    min_size=1,
                    max_size=_POOL_MAX,
                    command_timeout=REQUEST_MS_MAX / 1_000,
                    timeout=CONNECT_MS_MAX / 1_000,
                    max_inactive_connection_lifetime=0,
                    reset=_leave_as_it_is,
                    server_settings=_SESSION,
                )
        except (*_ENGINE_ERRORS, ValueError) as error:
            raise JournalFailed(f"cannot reach {place.shown}: {_told(error)}", path=place.shown) from error
        journal = cls(place, pool)
        try:
            await journal._prepare()
        except BaseException:
            pool.terminate()
            raise
        return journal

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`; the server has synced it when this returns."""
        if len(sealed.body) > self.batch_bytes_max:
            raise too_large(self.path, len(sealed.body), self.batch_bytes_max)
        batch = sealed.batch
        async with self._writing() as append:
            kept = await append.fetchrow(expected_position, batch.position, batch.parent, sealed.digest, sealed.body)
        if kept is None:
            tail = await self.tail()
            raise PositionTaken(
                f"the tail of {self.path} is at {tail}, not at {expected_position}", path=self.path, position=tail
            )

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        async with self._connected("read") as connection, connection.transaction(isolation="repeatable_read"):
            noted = f"SELECT first, position, digest FROM {self._schema}.tail"  # noqa: S608 - as above
            first, tail, tail_digest = await connection.fetchrow(noted)
            if after + 1 < first:
                raise trimmed(self.path, after + 1, first)
            if tail < after:
                raise damaged(self.path, tail + 1, "is missing")
            # Wherever it is kept, the batch before comes along: the first one wanted has to name it as its parent.
            found = await connection.fetch(
                f"SELECT position, parent, digest, body FROM {self._schema}.batches "  # noqa: S608
                "WHERE position BETWEEN $1 AND $2 ORDER BY position",
                after,
                after + count_max,
            )
        rows = [StoredBatch(*row) for row in found]
        parent: Digest | None = NO_DIGEST
        if after > 0:
            before = rows.pop(0) if rows and rows[0].position == after else None
            if before is None and after >= first:
                raise damaged(self.path, after, "is missing")
            parent = Digest(before.digest) if before is not None else None
        run = verify_run(rows, after, parent, self.path)
        reached = after + len(run)
        if reached < tail and len(run) < count_max:
            raise damaged(self.path, reached + 1, "is missing")
        if run and reached == tail and run[-1].digest != tail_digest:
            raise damaged(self.path, reached, "is not the last one the journal noted")
        return run

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        async with self._connected("read") as connection:
            first, tail = await connection.fetchrow(f"SELECT first, position FROM {self._schema}.tail")  # noqa: S608
        return Position(first if first <= tail else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        async with self._connected("read") as connection:
            return Position(await connection.fetchval(f"SELECT position FROM {self._schema}.tail"))  # noqa: S608

    async def wait(self, after: Position, ms_max: int) -> None:
        """Return when there may be a batch after a position."""
        if self._told_position > after:
            return
        if self._ear is None or self._ear.is_closed():
            with contextlib.suppress(*_ENGINE_ERRORS):
                await self._listen()
        self._told.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ms_max / 1_000):
                await self._told.wait()

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position."""
        async with self._connected("trim") as connection, connection.transaction():
            first = await connection.fetchval(
                f"UPDATE {self._schema}.tail SET first = least($1, position) "  # noqa: S608
                "WHERE first < least($1, position) RETURNING first",
                before,
            )
            if first is not None:
                await connection.execute(f"DELETE FROM {self._schema}.batches WHERE position < $1", first)  # noqa: S608

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty journal go on after a position."""
        async with self._connected("begin") as connection:
            begun = await connection.fetchval(
                f"UPDATE {self._schema}.tail SET first = $1 + 1, position = $1, digest = $2 "  # noqa: S608
                "WHERE position = 0 RETURNING position",
                after,
                digest,
            )
        if begun is None:
            raise not_empty(self.path, await self.tail())

    async def pulse(self, sign: bytes) -> None:
        """Leave a sign of life."""
        async with self._connected("leave a pulse in") as connection:
            await connection.execute(
                f"INSERT INTO {self._schema}.pulse VALUES (0, $1) "  # noqa: S608
                "ON CONFLICT (only_row) DO UPDATE SET sign = excluded.sign",
                sign,
            )

    async def last_pulse(self) -> bytes:
        """The last sign of life."""
        async with self._connected("look for a pulse in") as connection:
            return await connection.fetchval(f"SELECT sign FROM {self._schema}.pulse") or b""  # noqa: S608

    async def note(self, text: bytes) -> None:
        """Leave a note."""
        async with self._connected("leave a note in") as connection:
            await connection.execute(
                f"INSERT INTO {self._schema}.note VALUES (0, $1) "  # noqa: S608
                "ON CONFLICT (only_row) DO UPDATE SET content = excluded.content",
                text,
            )

    async def last_note(self) -> bytes:
        """The last note."""
        async with self._connected("look for a note in") as connection:
            return await connection.fetchval(f"SELECT content FROM {self._schema}.note") or b""  # noqa: S608

    async def close(self) -> None:
        """Let go of the connections, waiting for nobody: what is still asked fails."""
        self._closed = True
        for own in (self._ear, self._pen):
            if own is not None:
                own.terminate()
        self._pool.terminate()

    async def _prepare(self) -> None:
        async with self._connected("prepare") as connection:
            if await connection.fetchval("SHOW fsync") != "on":
                raise Misconfigured(
                    f"the PostgreSQL server at {self.path} runs with fsync = {await connection.fetchval('SHOW fsync')} "
                    "and loses what was acknowledged when the power goes; turn it on",
                    variable="WEFT_JOURNAL",
                )
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _PREPARING)
                known = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{self._schema}.note")
                if not known:
                    await connection.execute(_SCHEMA.format(name=self._name))

    async def _listen(self) -> None:
        """Hear of commits, on a connection of its own; one that broke is made anew by whoever waits next."""
        async with asyncio.timeout(CONNECT_MS_MAX / 1_000):
            ear = await asyncpg.connect(self._address, timeout=CONNECT_MS_MAX / 1_000)
            await ear.add_listener(f"{self._name}_journal", self._hear)
        self._ear = ear

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._told_position = max(self._told_position, int(str(payload)))
        self._told.set()

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[Any]:
        """The statement that appends, on a connection that is kept for it; one that failed is made anew."""
        if self._closed:
            raise Closed("the journal is closed")
        try:
            async with asyncio.timeout(JOURNAL_APPEND_MS_MAX / 1_000), self._appending:
                if self._pen is None or self._pen.is_closed():
                    self._pen = await asyncpg.connect(
                        self._address, timeout=CONNECT_MS_MAX / 1_000, server_settings=_SESSION
                    )
                    self._append = await self._pen.prepare(_APPEND.format(name=self._name))
                yield self._append
        except _ENGINE_ERRORS as error:
            if self._pen is not None:
                # What it was doing may still be done by the server; a connection of its own says nothing about that.
                self._pen.terminate()
                self._pen = None
            raise JournalFailed(f"cannot append to {self.path}: {_told(error)}", path=self.path) from error

    @contextlib.asynccontextmanager
    async def _connected(self, what: str, ms_max: int = REQUEST_MS_MAX) -> AsyncIterator[Any]:
        """A connection for one piece of work, which ends in time. Failures of the engine become `JournalFailed`."""
        if self._closed:
            raise Closed("the journal is closed")
        try:
            async with asyncio.timeout(ms_max / 1_000), self._pool.acquire() as connection:
                yield connection
        except _ENGINE_ERRORS as error:
            raise JournalFailed(f"cannot {what} {self.path}: {_told(error)}", path=self.path) from error


async def _leave_as_it_is(_connection: object) -> None:
    """Nothing of a session is changed here, and putting it back costs a round trip for every append."""


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
