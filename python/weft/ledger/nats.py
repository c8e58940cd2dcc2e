"""A journal in a NATS JetStream stream: one batch a message, and the stream's own count is the position.

An append says which sequence it expects to be the last, so the server refuses every writer but one; and it carries the
batch's digest as its message id, so that sending it again is harmless. What if the answer is lost? The append is sent
again under the same id. Either it is kept now, or the server says that something stands there, and whether that is ours
its id says. What if no answer comes at all, because three servers are choosing a leader? Then the append fails with its
outcome open, and the writer reads the tail.

The stream republishes the headers of what it has stored, which is what followers wait for: a hint, sent once a message
is committed and lost without harm. The pulse lives in a second stream that keeps one message, in memory; the note in a
third, on disk.

Durability is the server's: with `sync_interval: always` it syncs before it answers; without, it answers up to two
minutes before. Its monitoring address says which, so where one is given the journal refuses a server that may lose
what it acknowledged.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Final

import httpx
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from weft.ledger.chain import StoredBatch, damaged, not_empty, too_large, trimmed, verify_run
from weft.model.batch import SealedBatch, unseal
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import JournalDamaged, JournalFailed, Misconfigured, PositionTaken
from weft.model.ids import Position
from weft.model.journal import JournalPlace
from weft.model.policy import (
    BATCH_BYTES_MAX,
    CONNECT_MS_MAX,
    JOURNAL_APPEND_MS_MAX,
    JOURNAL_CONNECT_MS_MAX,
    JOURNAL_READ_BYTES_MAX,
    JOURNAL_TRY_MS,
    MESSAGE_SPARE_BYTES,
    REQUEST_MS_MAX,
)

_DIGEST: Final = "Nats-Msg-Id"
"""A batch's digest is its message's id: the server keeps no second one of the same within two minutes."""
_EXPECTED: Final = "Nats-Expected-Last-Sequence"
_SEQUENCE: Final = "Nats-Sequence"
_WRONG_SEQUENCE: Final = "wrong last sequence"
_READ_COUNT_MAX: Final = 512
_VERSION_MIN: Final = (2, 12)
"""Older servers answer a question with one message, and were not tried."""
_PAUSE_S: Final = 0.05
"""Between two questions to servers that are choosing a leader, or to a replica that has not caught up."""
_ENGINE_ERRORS: Final = (NatsError, JetStreamError, OSError, TimeoutError)


class NatsJournal:
    """A journal in the stream `place.name`. `open` makes the stream where it is missing, and checks it where not."""

    def __init__(self, place: JournalPlace, connection: Client) -> None:
        self.path = place.shown
        self._place = place
        self._connection = connection
        self._jetstream = connection.jetstream(timeout=JOURNAL_TRY_MS / 1_000)
        self._stream = place.name.upper()
        self._subject = f"{place.name.lower()}.log"
        self._pulses = f"{self._stream}_PULSE"
        self._pulse_subject = f"{place.name.lower()}.pulse"
        self._notes = f"{self._stream}_NOTE"
        self._note_subject = f"{place.name.lower()}.note"
        self._listens = False
        self._told = asyncio.Event()
        self._told_position = 0
        self._known: tuple[Position, Digest] = (Position(0), NO_DIGEST)

    @classmethod
    async def open(cls, place: JournalPlace) -> "NatsJournal":
        """Connect. Raises `JournalFailed` when nobody answers, `Misconfigured` when the servers would lose batches."""
        await _check_sync(place)
        try:
            async with asyncio.timeout(JOURNAL_CONNECT_MS_MAX / 1_000):
                connection = await nats.connect(
                    list(place.servers),
                    name="weft",
                    connect_timeout=CONNECT_MS_MAX // 1_000,
                    reconnect_time_wait=_PAUSE_S,
                    max_reconnect_attempts=-1,
                    error_cb=_leave_to_the_caller,
                )
        except _ENGINE_ERRORS as error:
            raise JournalFailed(f"cannot reach {place.shown}: {_told(error)}", path=place.shown) from error
        version = connection.connected_server_version
        if (version.major, version.minor) < _VERSION_MIN:
            await connection.close()
            raise Misconfigured(
                f"the NATS server at {place.shown} is {version.major}.{version.minor}; the journal needs "
                f"{_VERSION_MIN[0]}.{_VERSION_MIN[1]} or newer",
                variable="WEFT_JOURNAL",
            )
        journal = cls(place, connection)
        try:
            await journal._prepare()
        except BaseException:
            await connection.close()
            raise
        return journal

    @property
    def batch_bytes_max(self) -> int:
        """What the server takes in a message, less its headers."""
        return min(BATCH_BYTES_MAX, self._connection.max_payload - MESSAGE_SPARE_BYTES)

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`; the servers hold it, synced where they are set so, at the end."""
        if len(sealed.body) > self.batch_bytes_max:
            raise too_large(self.path, len(sealed.body), self.batch_bytes_max)
        name = sealed.digest.hex()
        headers = {_EXPECTED: str(expected_position), _DIGEST: name}
        loop = asyncio.get_running_loop()
        deadline_s, sent_before = loop.time() + JOURNAL_APPEND_MS_MAX / 1_000, False
        while True:
            try:
                answer = await self._jetstream.publish(
                    self._subject, sealed.body, timeout=JOURNAL_TRY_MS / 1_000, headers=headers
                )
            except _ENGINE_ERRORS as error:
                if isinstance(error, APIError) and _WRONG_SEQUENCE in (error.description or ""):
                    if sent_before and await self._is_there(expected_position + 1, name):
                        break
                    raise await self._taken(expected_position, error) from error
                if loop.time() >= deadline_s or self._connection.is_closed:
                    raise self._failed("append to", error) from error
                # Nobody answered, or nobody leads yet. Under the same id and the same expectation it lands once.
                sent_before = True
                await asyncio.sleep(_PAUSE_S)
                continue
            if answer.duplicate and not sent_before:
                raise await self._taken(expected_position, None)
            break
        self._known = (sealed.batch.position, sealed.digest)

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        oldest, tail = await self._bounds()
        if after + 1 < oldest:
            raise trimmed(self.path, after + 1, oldest)
        last = min(after + count_max, tail)
        if after > tail:
            raise damaged(self.path, tail + 1, "is missing")
        if last <= after:
            return []
        parent = await self._digest_at(after, oldest)
        rows: list[StoredBatch] = []
        before = parent or NO_DIGEST
        for row in await self._fetch(after + 1, last):
            rows.append(row._replace(parent=_parent_of(row) if parent is None and not rows else before))
            before = Digest(row.digest)
        run = verify_run(rows, after, parent, self.path)
        if len(run) < last - after:
            raise damaged(self.path, after + len(run) + 1, "is missing")
        self._known = (run[-1].batch.position, run[-1].digest)
        return run

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        oldest, tail = await self._bounds()
        return Position(oldest if oldest <= tail else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept, as the stream's leader has it."""
        return (await self._bounds())[1]

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position."""
        before = min(before, await self.tail())
        try:
            await self._jetstream.purge_stream(self._stream, seq=before)
        except _ENGINE_ERRORS as error:
            raise self._failed("trim", error) from error

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty stream go on after a position."""
        if (tail := await self.tail()) > 0:
            raise not_empty(self.path, tail)
        try:
            await self._jetstream.purge_stream(self._stream, seq=after + 1)
        except _ENGINE_ERRORS as error:
            raise self._failed("begin", error) from error
        self._known = (after, digest)

    async def wait(self, after: Position, ms_max: int) -> None:
        """Return when there may be a batch after a position."""
        if self._told_position > after:
            return
        if not self._listens:
            # Only who waits listens: a writer would hear of nothing but itself.
            self._listens = True
            await self._connection.subscribe(f"{self._subject}.kept", cb=self._hear)
        self._told.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ms_max / 1_000):
                await self._told.wait()

    async def pulse(self, sign: bytes) -> None:
        """Leave a sign of life."""
        await self._leave(self._pulse_subject, sign, "a pulse")

    async def last_pulse(self) -> bytes:
        """The last sign of life."""
        return await self._last(self._pulses, self._pulse_subject, "a pulse")

    async def note(self, text: bytes) -> None:
        """Leave a note."""
        await self._leave(self._note_subject, text, "a note")

    async def last_note(self) -> bytes:
        """The last note."""
        return await self._last(self._notes, self._note_subject, "a note")

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.close()

    async def _leave(self, subject: str, content: bytes, what: str) -> None:
        try:
            await self._jetstream.publish(subject, content, timeout=JOURNAL_TRY_MS / 1_000)
        except _ENGINE_ERRORS as error:
            raise self._failed(f"leave {what} in", error) from error

    async def _last(self, stream: str, subject: str, what: str) -> bytes:
        try:
            message = await self._jetstream.get_last_msg(stream, subject)
        except NotFoundError:
            return b""
        except _ENGINE_ERRORS as error:
            raise self._failed(f"look for {what} in", error) from error
        return message.data or b""

    async def _prepare(self) -> None:
        """Make the three streams, or check that those there keep what they are given."""
        log = StreamConfig(
            name=self._stream,
            description="Weft's log: one batch a message",
            subjects=[self._subject],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            num_replicas=self._place.replicas,
            allow_direct=True,
            deny_delete=True,
            republish=RePublish(src=self._subject, dest=f"{self._subject}.kept", headers_only=True),
        )
        pulses = StreamConfig(
            name=self._pulses,
            description="Weft's writer lives",
            subjects=[self._pulse_subject],
            storage=StorageType.MEMORY,
            max_msgs_per_subject=1,
            num_replicas=self._place.replicas,
        )
        notes = StreamConfig(
            name=self._notes,
            description="How far Weft's log is in its primary layer",
            subjects=[self._note_subject],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            num_replicas=self._place.replicas,
        )
        for config in (log, pulses, notes):
            await self._have(config)

    async def _have(self, wanted: StreamConfig) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + JOURNAL_CONNECT_MS_MAX / 1_000
        while True:
            try:
                found = (await self._jetstream.stream_info(str(wanted.name))).config
                break
            except NotFoundError:
                try:
                    found = (await self._jetstream.add_stream(wanted)).config
                    break
                except _ENGINE_ERRORS as error:
                    last: Exception = error
            except _ENGINE_ERRORS as error:
                last = error
            # A refusal is final; servers that are still finding each other, or made it at the same moment, are not.
            refused = isinstance(last, APIError) and last.code == 400 and "in use" not in (last.description or "")
            if refused or loop.time() >= deadline_s:
                raise self._failed(f"make the stream {wanted.name} in", last) from last
            await asyncio.sleep(_PAUSE_S)
        loses = [name for name in ("max_age", "max_msgs", "max_bytes") if (getattr(found, name) or 0) > 0]
        if wanted.storage is StorageType.FILE and (loses or found.storage != StorageType.FILE):
            reason = f"limits it by {loses[0]}" if loses else "keeps it in memory"
            raise Misconfigured(
                f"the stream {wanted.name} at {self.path} {reason} and would lose the log; "
                "choose another name, as in nats://host:4222/name",
                variable="WEFT_JOURNAL",
            )

    async def _hear(self, message: Any) -> None:
        """The stream has stored something."""
        self._told_position = max(self._told_position, int((message.headers or {}).get(_SEQUENCE, 0)))
        self._told.set()

    async def _bounds(self) -> tuple[Position, Position]:
        """The first position that is kept and the last, by the stream's leader. Empty: the first is past the last."""
        try:
            state = (await self._jetstream.stream_info(self._stream)).state
        except _ENGINE_ERRORS as error:
            raise self._failed("read", error) from error
        return Position(max(1, state.first_seq)), Position(state.last_seq)

    async def _digest_at(self, position: Position, oldest: Position) -> Digest | None:
        """The digest the next batch should name as its parent; None when the log was cut off there."""
        if position == 0:
            return NO_DIGEST
        if position == self._known[0]:
            return self._known[1]
        if position < oldest:
            return None
        rows = await self._fetch(position, position)
        if not rows:
            raise damaged(self.path, position, "is missing")
        return Digest(rows[0].digest)

    async def _fetch(self, first: int, last: int) -> list[StoredBatch]:
        """The messages between two sequences, from any replica; one that lags behind the leader is asked again."""
        rows: list[StoredBatch] = []
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + REQUEST_MS_MAX / 1_000
        while first <= last:
            count = min(_READ_COUNT_MAX, last - first + 1)
            try:
                found = await self._ask(first, count)
            except _ENGINE_ERRORS as error:
                if loop.time() >= deadline_s:
                    raise self._failed("read", error) from error
                found = []
            if not found:
                if loop.time() >= deadline_s:
                    raise damaged(self.path, first, "is missing")
                await asyncio.sleep(_PAUSE_S)
                continue
            rows += found
            if found[-1].position != first + len(found) - 1:
                # Something is missing in between; the check of the run says what.
                return rows
            first = found[-1].position + 1
            deadline_s = loop.time() + REQUEST_MS_MAX / 1_000
        return rows

    async def _ask(self, first: int, count: int) -> list[StoredBatch]:
        """One question that is answered by many messages and a last one without a body."""
        inbox = self._connection.new_inbox()
        answers = await self._connection.subscribe(inbox)
        try:
            question = {"seq": first, "batch": count, "max_bytes": JOURNAL_READ_BYTES_MAX}
            await self._connection.publish(
                f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(question).encode(), reply=inbox
            )
            rows: list[StoredBatch] = []
            while len(rows) <= count:
                message = await answers.next_msg(timeout=JOURNAL_TRY_MS / 1_000)
                headers = message.headers or {}
                status = headers.get("Status")
                if status == "503":
                    raise NoRespondersError
                if status is not None and not message.data:
                    break
                position = int(headers[_SEQUENCE])
                rows.append(StoredBatch(position, b"", _digest_of(headers, position, self.path), message.data))
        finally:
            await answers.unsubscribe()
        return rows

    async def _is_there(self, position: int, name: str) -> bool:
        """Whether the message at a position is the one of this id."""
        try:
            found = await self._jetstream.get_msg(self._stream, seq=position)
        except _ENGINE_ERRORS as error:
            raise self._failed("read", error) from error
        return (found.headers or {}).get(_DIGEST) == name

    async def _taken(self, expected: Position, cause: Exception | None) -> PositionTaken:
        try:
            tail = await self.tail()
        except JournalFailed as error:
            raise error from cause
        return PositionTaken(f"the tail of {self.path} is at {tail}, not at {expected}", path=self.path, position=tail)

    def _failed(self, what: str, error: Exception) -> JournalFailed:
        return JournalFailed(f"cannot {what} {self.path}: {_told(error)}", path=self.path)


async def _check_sync(place: JournalPlace) -> None:
    """Where a monitoring address is given: refuse a server that answers before it has synced."""
    if not place.monitor:
        return
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=CONNECT_MS_MAX / 1_000) as http:
            shown = (await http.get(f"{place.monitor}/varz")).json()
        always = shown["jetstream"]["config"].get("sync_always", False)
    except (httpx.HTTPError, ValueError, KeyError, AttributeError) as error:
        raise JournalFailed(
            f"cannot read JetStream's settings at {place.monitor}/varz: {_told(error)}", path=place.shown
        ) from error
    if always is not True:
        raise Misconfigured(
            f"the NATS server at {place.shown} answers before it has synced, so a power cut loses what was "
            "acknowledged; set `sync_interval: always` in its jetstream block",
            variable="WEFT_JOURNAL",
        )


async def _leave_to_the_caller(error: Exception) -> None:
    """What fails is told to whoever asked; the connection itself comes back by itself."""


def _digest_of(headers: dict[str, str], position: int, path: str) -> bytes:
    try:
        return bytes.fromhex(headers[_DIGEST])
    except (KeyError, ValueError) as error:
        raise damaged(path, position, "is not one of Weft's") from error


def _parent_of(row: StoredBatch) -> bytes:
    """The parent a batch names itself, where nobody holds the one before it any more."""
    try:
        return unseal(row.body, Position(row.position), Digest(row.digest)).batch.parent
    except JournalDamaged:
        return NO_DIGEST


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
