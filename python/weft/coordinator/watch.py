"""Watching the log: every event after a position, in order, without a gap, for as long as somebody listens.

A stream is read from the journal, not fed by the writer: a watcher keeps its own place and takes the next batches when
it has sent the last ones, so a slow one holds up nobody and nothing is queued for it. The newest batches are read once
and kept at hand, because everybody who watches wants them at the same time.

    event: NodeRegistered
    id: 17.2                                    the third event of the batch at position 17
    data: {"position": 17, "index": 2, "last": true, "kind": "NodeRegistered", …}

A batch applies whole or not at all; `last` is true on its last event, so a reader that wants whole batches can have
them. A stream that broke goes on after the id it saw last: `Last-Event-ID: 17.2`, or `?from=17.2`. `?from=17` goes on
after the whole of 17, which is what a `Weft-Position` of 17 asks for.

What if the log no longer begins early enough? The answer is 410 with the oldest position there is, before any event:
the reader takes the state and follows from its position. What if it is not so long? That is another log's position,
and the answer is 409.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple

from weft.api.bodies.events import EventInfo, encode_event
from weft.coordinator.changes import Changes
from weft.ledger import Journal
from weft.model.batch import SealedBatch
from weft.model.errors import InvalidField, NotReached, PositionAhead, PositionCompacted, Unavailable
from weft.model.ids import Position
from weft.model.policy import REQUEST_MS_MAX, WATCH_BATCHES_MAX, WATCH_QUIET_MS, WATCHERS_MAX
from weft.serve import Call, Stream
from weft.telemetry import Metrics

SSE: Final = b"text/event-stream"
LAST_EVENT_ID: Final = b"last-event-id"
QUIET: Final = b": still here\n\n"


class Place(NamedTuple):
    """A place between two events: after event `event` of the batch at `position`; after all of it when None."""

    position: Position
    event: int | None = None


class Watch:
    """Answers GET /events, and waits for positions on behalf of every other read."""

    def __init__(
        self,
        journal: Journal,
        position: Callable[[], Position],
        changes: Changes,
        metrics: Metrics,
        *,
        quiet_ms: int = WATCH_QUIET_MS,
        reach_ms_max: int = REQUEST_MS_MAX,
        watchers_max: int = WATCHERS_MAX,
    ) -> None:
        self._journal = journal
        self._position = position
        self._changes = changes
        self._quiet_ms, self._reach_ms_max, self._watchers_max = quiet_ms, reach_ms_max, watchers_max
        self._recent: deque[SealedBatch] = deque(maxlen=WATCH_BATCHES_MAX)
        self._reading = asyncio.Lock()
        self._watching = 0
        self._sent = metrics.counter("weft_events_streamed_total", "Events sent to watchers.")
        metrics.gauge("weft_watchers", "Streams of events that are open.", lambda: self._watching)

    async def stream(self, call: Call) -> Stream:
        """GET /events."""
        since = parse_place(call.query.since)
        if (last_seen := call.header(LAST_EVENT_ID)) is not None:
            since = parse_place(last_seen.decode("latin-1"), "Last-Event-ID")
        await self._check(since)
        if self._watching >= self._watchers_max:
            raise Unavailable(f"{self._watching} streams of events are open already", reason="watchers")
        return Stream(self._follow(since, call.query.follow), SSE)

    async def reach(self, at_least: int) -> None:
        """Wait until the log has come to a position. Raises `NotReached` when it does not in time."""
        if self._position() >= at_least:
            return
        if not await self._changes.until(lambda: self._position() >= at_least, self._reach_ms_max):
            raise NotReached(
                f"the log is at position {self._position()} and did not come to {at_least} in {self._reach_ms_max} ms",
                position=self._position(),
                at_least=at_least,
            )

    async def _check(self, since: Place) -> None:
        tail = self._position()
        if since.position > tail:
            raise PositionAhead(
                f"the log is at position {tail}; {since.position} is another log's, or not committed yet",
                **{"from": since.position, "position": tail},
            )
        oldest = await self._journal.oldest()
        # Half of a batch that was read before cannot be gone on with once the batch is gone.
        needed = since.position + 1 if since.event is None else since.position
        if oldest and needed < oldest:
            raise PositionCompacted(
                f"the log begins at position {oldest}; read the state, and follow from its Weft-Position",
                **{"from": since.position, "oldest": oldest},
            )

    async def _follow(self, since: Place, follow: bool) -> AsyncGenerator[bytes, None]:
        """Every event after a place; with `follow`, also those that are still to come."""
        end = self._position()
        after = since.position if since.event is None else Position(since.position - 1)
        self._watching += 1
        try:
            while True:
                while after < self._position() and (follow or after < end):
                    for sealed in await self._read(after):
                        after = sealed.batch.position
                        if not follow and after > end:
                            return
                        seen = since.event if after == since.position else None
                        if part := self._spell(sealed, seen):
                            yield part
                if not follow:
                    return
                reached = after
                if not await self._changes.until(lambda: self._position() > reached, self._quiet_ms):  # noqa: B023
                    if self._changes.is_draining:
                        return
                    yield QUIET
        finally:
            self._watching -= 1

    async def _read(self, after: Position) -> Sequence[SealedBatch]:
        """The next batches, from those at hand when they are there."""
        if (found := self._at_hand(after)) is not None:
            return found
        async with self._reading:
            # Whoever had the lock before may have read what is wanted here.
            if (found := self._at_hand(after)) is not None:
                return found
            read = await self._journal.read(after, WATCH_BATCHES_MAX)
            # The journal may have a batch already that is still being appended. Nobody sees it before it is merged.
            merged = self._position()
            run = [sealed for sealed in read if sealed.batch.position <= merged]
            if run and run[-1].batch.position == merged:
                self._recent.clear()
                self._recent.extend(run)
            return run

    def _at_hand(self, after: Position) -> list[SealedBatch] | None:
        if not self._recent or after + 1 < self._recent[0].batch.position:
            return None
        return [sealed for sealed in self._recent if sealed.batch.position > after] or None

    def _spell(self, sealed: SealedBatch, seen: int | None) -> bytes:
        """A batch's events as the stream writes them, those after the index that was seen."""
        batch, parts = sealed.batch, []
        for index, entry in enumerate(batch.entries):
            if seen is not None and index <= seen:
                continue
            kind = type(entry.event).__name__
            info = EventInfo(
                position=batch.position,
                index=index,
                last=index == len(batch.entries) - 1,
                sequence=entry.sequence,
                at_ms=batch.at_ms,
                cause=entry.cause,
                kind=kind,
                event=entry.event,
            )
            parts.append(
                b"event: %b\nid: %d.%d\ndata: %b\n\n" % (kind.encode(), batch.position, index, encode_event(info))
            )
        self._sent.add(len(parts))
        return b"".join(parts)


def parse_place(text: str, field: str = "from") -> Place:
    """A place as a stream's ids spell it: "17" after the whole batch, "17.2" after its third event."""
    position, dot, index = text.partition(".")
    if not _is_number(position) or (dot and not _is_number(index)):
        raise InvalidField("a place in the log is a position, or a position and an index like 17.2", field=field)
    return Place(Position(int(position)), int(index) if dot else None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15
