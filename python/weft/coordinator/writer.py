"""The writer: the one task that turns commands into a longer log.

It takes every waiting command up to a bound, decides each against a draft, appends the batch once at the expected
position, merges, and answers. Commands that come while a batch is being synced make up the next one, and `Crowd` has it
wait for those who came together before, so the busier the coordinator is, the more commands share a sync. One append
is under way at a time: deciding thirty commands takes less than a tenth of a millisecond, so there is nothing to gain
from deciding the next batch while this one is synced. Nobody reads a draft.

What if an append is refused? Another writer was faster: drop the draft, read the tail, decide again. What if its fate
is unknown? The same, and the tail says whether our batch is in it. A refusal may rest on an event of the same batch,
so refusals are answered with the batch too, never before it.

A writer reigns for a term. Where it finds a newer one in the log it decides nothing more and names the newer writer to
whoever asks; it follows then (`weft.coordinator.term`) and may reign again. What if it was stopped for so long that a
newer term may have begun without its knowing? It reads the tail before it answers anything, even that nothing changed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from weft.coordinator.crowd import Crowd
from weft.coordinator.ports import Clock, Random
from weft.coordinator.repeats import Answer, Cause, RepeatWindow, spell_cause
from weft.core.dispatch import LISTENS, apply, decide
from weft.core.moment import CHANCE_BYTES, Moment
from weft.core.replay import close_batch, follow
from weft.core.snapshot import Answered
from weft.core.state import Draft, State
from weft.ledger import Journal
from weft.model.batch import Batch, Entry, SealedBatch, seal
from weft.model.commands import Command, OpenLedger, OpenTerm
from weft.model.errors import (
    BatchTooLarge,
    Internal,
    JournalDamaged,
    JournalFailed,
    NoLayer,
    NotTheWriter,
    PositionTaken,
    Unavailable,
    WeftError,
)
from weft.model.events import Event
from weft.model.ids import NodeId, Position, RequestId, Term
from weft.model.policy import (
    APPEND_ATTEMPTS_MAX,
    BATCH_COMMANDS_MAX,
    BATCH_EVENTS_MAX,
    QUEUE_COMMANDS_MAX,
    REPEAT_WINDOW_COUNT,
    REPLAY_BATCHES_MAX,
    REQUEST_MS_MAX,
    LedgerPolicy,
)
from weft.telemetry import Log, Metrics

PUBLISHER: Final = "coordinator"
"""Whose count the events' sequence numbers are. There is one publisher while there is one coordinator."""

Listener = Callable[[Draft, list[Event]], None]


class Shipping(Protocol):
    """What makes a committed batch available, and says when it is."""

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch every layer takes."""
        ...

    def check(self) -> None:
        """Raise `NoLayer` when no write can be made available now."""
        ...

    async def has_room(self, within_ms: int) -> bool:
        """Wait until another batch may be committed, so long at most; says whether it may."""
        ...

    def offer(self, sealed: SealedBatch) -> None:
        """A batch was committed and merged."""
        ...

    async def reached(self, position: Position) -> None:
        """Return when a position is available. Raises `NotAvailableYet`."""
        ...

    def pause(self) -> None:
        """Another writer reigns, and makes its batches available itself."""
        ...


class Pending:
    """A command that waits for its batch."""

    __slots__ = ("cause", "command", "future", "named")

    def __init__(self, command: Command, cause: str, named: bool, future: "asyncio.Future[Answer]") -> None:
        self.command = command
        self.cause = cause
        self.named = named
        self.future = future

    def answer(self, answer: Answer) -> None:
        """Tell whoever still waits."""
        if not self.future.done():
            self.future.set_result(answer)

    def refuse(self, error: WeftError) -> None:
        """Tell whoever still waits that it was not to be."""
        if not self.future.done():
            self.future.set_exception(error)


class Drafted(NamedTuple):
    """A batch that is decided and not yet appended."""

    draft: Draft
    entries: list[Entry]
    outcomes: list[tuple[Pending, tuple[Event, ...] | WeftError]]


class Writer:
    """Writes the log of one coordinator, and owns the state that follows from it."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        random: Random,
        silent: Callable[[], frozenset[NodeId]],
        log: Log,
        metrics: Metrics,
        *,
        queue_max: int = QUEUE_COMMANDS_MAX,
        append_ms_max: int = REQUEST_MS_MAX,
    ) -> None:
        self.state = State()
        self._journal = journal
        self._clock = clock
        self._random = random
        self._silent = silent
        self._log = log
        self._queue: deque[Pending] = deque()
        self._queue_max = queue_max
        self._crowd = Crowd()
        self._append_s_max = append_ms_max / 1_000
        self._wake = asyncio.Event()
        self._shipping: Shipping | None = None
        self._closing = False
        self._term = Term(0)
        self._doubted = False
        self._lease_holds: Callable[[], bool] = _always
        self._listeners: list[Listener] = []
        self._repeats = RepeatWindow(REPEAT_WINDOW_COUNT)
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}
        self._batches = metrics.counter("weft_batches_total", "Batches appended to the journal.")
        self._events = metrics.counter("weft_events_total", "Events appended to the journal.")
        self._commands = metrics.counter("weft_commands_total", "Commands decided, by outcome.", ("outcome",))
        metrics.gauge("weft_queue_commands", "Commands waiting for the writer.", lambda: len(self._queue))

    @property
    def is_writing(self) -> bool:
        """Whether commands are taken."""
        return self.reigns and not self._closing

    @property
    def reigns(self) -> bool:
        """Whether the last term in the log, as far as this coordinator knows it, is its own."""
        return self._term > 0

    @property
    def term(self) -> Term:
        """The term this coordinator writes in, 0 while it follows."""
        return self._term

    @property
    def is_closing(self) -> bool:
        """Whether no more commands will be taken, ever."""
        return self._closing

    def listen(self, listener: Listener) -> None:
        """Be told of every batch after it is merged: the draft it was, and its events."""
        self._listeners.append(listener)

    def adopt(self, state: State, answered: Iterable[Answered]) -> None:
        """Begin with a state from a snapshot instead of with nothing. Before anything is followed."""
        assert self.state.marks.position == 0, "a state is adopted by a coordinator that knows nothing"
        self.state = state
        for one in answered:
            self._repeats.remember(one.cause, Answer(one.position, one.events))

    def answered(self) -> list[Answered]:
        """The answers of named requests that the log tells of, for a snapshot."""
        return [
            Answered(cause=cause, position=answer.position, events=answer.events)
            for cause, answer in self._repeats.items()
            if answer.events and answer.position <= self.state.marks.position
        ]

    def ship_with(self, shipping: Shipping) -> None:
        """From now on an answer waits until its batch is available, and a batch until there is room for it."""
        self._shipping = shipping

    async def open(self, writer: str) -> None:
        """Live through the log, then begin a term in it. Raises `JournalFailed` when the log cannot be followed."""
        await self.follow()
        for _ in range(APPEND_ATTEMPTS_MAX):
            if await self.begin_term(writer):
                return
        raise Unavailable("other writers were faster each time", reason="journal")

    async def follow(self) -> int:
        """Merge what the journal has beyond the state, while nobody writes here. Returns how many batches that was."""
        before = self.state.marks.position
        await self._catch_up()
        return self.state.marks.position - before

    async def begin_term(self, writer: str, address: str = "", lease_holds: "Callable[[], bool] | None" = None) -> bool:
        """Begin a term right after what the state has followed; while nobody writes here.

        Says False when something else was appended first: whoever did that lives, so nobody is to be deposed. Raises
        `JournalFailed` when the journal left open what became of it and cannot be read; trying again is safe.
        """
        assert not self.reigns, "whoever reigns begins no term"
        loop = asyncio.get_running_loop()
        drafted = self._decide_all(
            [
                Pending(command, "open", False, loop.create_future())
                for command in (OpenLedger(policy=LedgerPolicy()), OpenTerm(writer=writer, address=address))
            ]
        )
        sealed = self._seal(drafted)
        close_batch(drafted.draft, sealed)
        try:
            await self._journal.append(sealed, self.state.marks.position)
        except JournalFailed as error:
            self._log.warning("a term was not begun at once", code=error.code, reason=error.message)
            if not await self._catch_up(sealed):
                return False
        else:
            self._merge(drafted.draft, sealed)
        self._batches.add()
        self._events.add(len(drafted.entries))
        ledger = self.state.ledger
        assert ledger is not None, "a log that was opened has a ledger"
        if ledger.term != sealed.batch.term:
            return False
        self._lease_holds = lease_holds or _always
        self._term = ledger.term
        return True

    def doubt(self) -> None:
        """Somebody else may have begun a term: read the tail before anything else is answered."""
        self._doubted = True
        self._wake.set()

    async def submit(self, command: Command, cause: Cause) -> Answer:
        """Have a command decided, and wait until what it became is committed; available, where layers are configured.

        Raises `Rejected` when it was refused, and `Unavailable` when the queue is full or the journal does not keep
        up. After `Unavailable` for the journal's sake the outcome is open; repeating the request under its id is safe.
        `NoLayer` says that nothing happened, `NotAvailableYet` that it did and waits for a layer.
        """
        spelled = spell_cause(cause, command)
        if self._shipping is None:
            return await self._submit(command, cause, spelled)
        # Of what was asked before, nobody may be told that nothing happened.
        if not (cause.named and self._is_repeat(spelled)):
            self._shipping.check()
        answer = await self._submit(command, cause, spelled)
        # An answer of old, or one that nothing had to be done for, rests on what was committed before it: it waits too.
        await self._shipping.reached(answer.position)
        return answer

    def _is_repeat(self, spelled: str) -> bool:
        return spelled in self._in_flight or self._repeats.find(spelled) is not None

    async def _submit(self, command: Command, cause: Cause, spelled: str) -> Answer:
        if self._closing:
            raise Unavailable("the coordinator is stopping; try again", reason="stopping")
        if not self.reigns:
            raise self.refusal()
        if cause.named:
            if (answer := self._repeats.find(spelled)) is not None:
                return answer
            if (first := self._in_flight.get(spelled)) is not None:
                return await asyncio.shield(first)
        if len(self._queue) >= self._queue_max:
            raise Unavailable(f"{len(self._queue)} commands are waiting already; try again", reason="busy")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append(Pending(command, spelled, cause.named, future))
        self._wake.set()
        self._crowd.see(len(self._queue))
        if not cause.named:
            return await future
        self._in_flight[spelled] = future
        future.add_done_callback(lambda landed: self._land(spelled, landed))
        return await asyncio.shield(future)

    async def run(self) -> None:
        """Write until `close`, and then until the queue is empty."""
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            if self._doubted:
                self._doubted = False
                await self._settle_doubt()
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            if self._shipping is not None and not await self._shipping.has_room(int(self._append_s_max * 1_000)):
                self._refuse_unshipped()
                continue
            await self._crowd.gather(len(self._queue))
            waiting = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_COMMANDS_MAX))]
            count, began_s = len(waiting), loop.time()
            await self._write(waiting)
            self._crowd.note(count, loop.time() - began_s)

    def close(self) -> None:
        """Take no more commands. `run` returns when those that wait are answered."""
        self._closing = True
        self._wake.set()
        self._crowd.disperse()

    def _land(self, cause: str, landed: "asyncio.Future[Answer]") -> None:
        """A named command has its answer. Its caller may be gone, so a refusal counts as looked at here."""
        self._in_flight.pop(cause, None)
        if not landed.cancelled():
            landed.exception()

    async def _write(self, waiting: list[Pending]) -> None:
        """Decide, append, merge, answer; again when another writer was faster, so many times."""
        attempts = 0
        while attempts < APPEND_ATTEMPTS_MAX:
            if self.reigns and not self._lease_holds() and not await self._settle_doubt():
                self._refuse_all(waiting, "the journal cannot be read, and another coordinator may have begun")
                return
            if not self.reigns:
                self._commands.add(len(waiting), "unavailable")
                for pending in waiting:
                    pending.refuse(self.refusal())
                return
            drafted = self._decide_all(waiting)
            if not drafted.entries:
                self._answer(drafted)
                return
            sealed = self._seal(drafted)
            if len(sealed.body) > self._batch_bytes_max():
                if not self._share_out(waiting, len(sealed.body)):
                    return
                continue
            close_batch(drafted.draft, sealed)
            try:
                await self._append(sealed, waiting)
            except JournalFailed as error:
                self._log.warning("an append failed", code=error.code, reason=error.message)
                if not await self._is_in_the_log(sealed, error, waiting):
                    if isinstance(error, PositionTaken):
                        attempts += 1
                        continue
                    self._refuse_all(waiting, f"the journal did not take the batch: {error.message}")
                    return
            else:
                self._merge(drafted.draft, sealed)
            self._batches.add()
            self._events.add(len(drafted.entries))
            self._answer(drafted)
            return
        self._refuse_all(waiting, "other writers were faster each time")

    def _decide_all(self, waiting: list[Pending]) -> Drafted:
        """Decide one command after the other, each seeing what those before it became."""
        state, now_ms = self.state, self._clock.now_ms()
        draft = Draft(state)
        silent = self._silent() if any(type(pending.command) in LISTENS for pending in waiting) else frozenset()
        sequence = state.publishers.get(PUBLISHER) or 0
        drafted = Drafted(draft, [], [])
        for index, pending in enumerate(waiting):
            if len(drafted.entries) >= BATCH_EVENTS_MAX:
                self._queue.extendleft(reversed(waiting[index:]))
                del waiting[index:]
                break
            if pending.named and (answer := self._repeats.find(pending.cause)) is not None:
                pending.answer(answer)
                continue
            moment = Moment(now_ms=now_ms, chance=self._random.draw(CHANCE_BYTES), silent=silent)
            try:
                events = decide(draft, pending.command, moment)
            except WeftError as error:
                drafted.outcomes.append((pending, error))
                continue
            except Exception as error:
                # Deciding changes nothing, so a bug in it is that one command's misfortune and not the log's.
                self._log.error("deciding met a bug", error, command=type(pending.command).__name__)
                drafted.outcomes.append((pending, Internal("the coordinator met a bug deciding this")))
                continue
            for event in events:
                apply(draft, event)
                sequence += 1
                drafted.entries.append(Entry(sequence=sequence, cause=pending.cause, event=event))
            drafted.outcomes.append((pending, events))
        return drafted

    def _batch_bytes_max(self) -> int:
        """The largest batch that can be written: what no layer takes could be committed and never be available."""
        journal_bytes = self._journal.batch_bytes_max
        return journal_bytes if self._shipping is None else min(journal_bytes, self._shipping.batch_bytes_max)

    def _share_out(self, waiting: list[Pending], size_bytes: int) -> bool:
        """Leave half of too large a batch for the next one. Says False when it was one command, which is refused."""
        limit_bytes = self._batch_bytes_max()
        if len(waiting) == 1:
            error = BatchTooLarge(
                f"this would be {size_bytes} bytes in the log, which takes {limit_bytes} at once; "
                "ask for less in one request",
                size_bytes=size_bytes,
                limit_bytes=limit_bytes,
            )
            self._commands.add(1, "refused")
            waiting[0].refuse(error)
            return False
        half = len(waiting) // 2
        self._queue.extendleft(reversed(waiting[half:]))
        del waiting[half:]
        return True

    def _seal(self, drafted: Drafted) -> SealedBatch:
        ledger, marks = drafted.draft.ledger, self.state.marks
        assert ledger is not None, "the first batch opens the ledger"
        batch = Batch(
            cluster_id=ledger.cluster_id,
            term=ledger.term,
            publisher=PUBLISHER,
            position=Position(marks.position + 1),
            parent=marks.log_digest,
            at_ms=self._clock.now_ms(),
            entries=tuple(drafted.entries),
        )
        return seal(batch)

    async def _append(self, sealed: SealedBatch, waiting: list[Pending]) -> None:
        """Append, and let nobody wait longer than a request may: the batch's fate is settled either way.

        Those who came meanwhile and wait for the next batch are not kept any longer for it.
        """
        appending = asyncio.ensure_future(self._journal.append(sealed, self.state.marks.position))
        done, _ = await asyncio.wait({appending}, timeout=self._append_s_max)
        if not done:
            self._refuse_all(waiting, "the journal has not answered in time, and may still commit this")
        while not done:
            count = len(self._queue)
            done, _ = await asyncio.wait({appending}, timeout=self._append_s_max)
            if not done:
                late = [self._queue.popleft() for _ in range(count)]
                self._refuse_all(late, "the journal has not answered in time what came before this")
        await appending

    async def _is_in_the_log(self, sealed: SealedBatch, error: JournalFailed, waiting: list[Pending]) -> bool:
        """Read the tail after an append that failed, and say whether the batch is in it all the same."""
        try:
            return await self._catch_up(sealed)
        except JournalDamaged:
            self._refuse_all(waiting, f"the journal is damaged: {error.message}")
            raise
        except JournalFailed:
            return False

    async def _catch_up(self, sought: SealedBatch | None = None) -> bool:
        """Merge what the journal has beyond the state. Says whether a batch that was sought is among it."""
        found = False
        while run := await self._journal.read(self.state.marks.position, REPLAY_BATCHES_MAX):
            for sealed in run:
                self._merge(follow(self.state, sealed), sealed)
                self._repeats.remember_batch(sealed.batch)
                found = found or (sought is not None and sealed.digest == sought.digest)
        ledger = self.state.ledger
        if self._term and ledger is not None and ledger.term != self._term:
            self._term = Term(0)
            if self._shipping is not None:
                self._shipping.pause()
            self._log.warning(
                "a newer writer has begun; this one writes no more", term=ledger.term, writer=ledger.writer
            )
        return found

    async def _settle_doubt(self) -> bool:
        """See whether somebody else has begun a term. Says whether that could be seen."""
        try:
            await self._catch_up()
        except JournalDamaged:
            raise
        except JournalFailed as error:
            self._log.warning("the tail could not be read", code=error.code, reason=error.message)
            return False
        return True

    def _merge(self, draft: Draft, sealed: SealedBatch) -> None:
        self.state.merge(draft)
        # What another writer committed is its to ship; it would be put to the primary once more.
        if self._shipping is not None and sealed.batch.term == self._term:
            self._shipping.offer(sealed)
        events = [entry.event for entry in sealed.batch.entries]
        for listener in self._listeners:
            listener(draft, events)

    def _answer(self, drafted: Drafted) -> None:
        position = self.state.marks.position
        for pending, outcome in drafted.outcomes:
            if isinstance(outcome, WeftError):
                self._commands.add(1, "refused")
                pending.refuse(outcome)
                continue
            self._commands.add(1, "accepted")
            answer = Answer(position, outcome)
            if pending.named:
                self._repeats.remember(pending.cause, answer)
            pending.answer(answer)

    def refusal(self) -> NotTheWriter:
        """The error for what only a writer answers: it says who that is."""
        address = self.state.ledger.address if self.state.ledger is not None else ""
        at = f"ask {address}" if address else "nobody does at the moment; try again"
        return NotTheWriter(f"this coordinator follows and does not write; {at}", writer=address)

    def _refuse_all(self, waiting: list[Pending], reason: str) -> None:
        self._commands.add(len(waiting), "unavailable")
        for pending in waiting:
            pending.refuse(Unavailable(f"nothing can be written now: {reason}", reason="journal"))

    def _refuse_unshipped(self) -> None:
        """No layer took the last batches, so nothing that waits is decided, and all of it may be tried again.

        What an append that nobody waited for has committed meanwhile is answered: it did happen.
        """
        refused, self._queue = self._queue, deque()
        for pending in refused:
            if pending.named and (answer := self._repeats.find(pending.cause)) is not None:
                pending.answer(answer)
                continue
            self._commands.add(1, "unavailable")
            pending.refuse(NoLayer("no availability layer has taken the last batches yet, and nothing was done"))


def _always() -> bool:
    return True


def internal_cause(what: str) -> Cause:
    """The cause of a command nobody sent."""
    return Cause(RequestId(what))
