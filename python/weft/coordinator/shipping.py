"""Shipping: every batch the journal holds goes to a layer, in order, and a write is answered when its batch is there.

The journal is the list of what is to be shipped, so nothing can be forgotten: the shipper keeps its own place in it and
reads on from there, after a restart as in life. Its place is noted now and then; the few batches behind an old note are
looked up before they are put, on the pending list and in the primary, so a restart puts nothing twice that it can see.
A batch's envelope is the same bytes whoever makes it, and so is its commitment.

A batch reaches the primary before the next one does. During an outage batches go to a fallback and onto the pending
list. While that list is being brought home, a new batch goes behind it: to the fallback again as long as the list is
long, one for every two that came home, so that the list always grows shorter; held back for the last few; to the
primary when it is empty. Where no fallback is well its turn takes it to the primary, ahead of what still waits: nobody
waits for a whole list, and readers go by the position in a batch.

What does a caller hear? With no layer that can take a write, 503, before anything was decided. With a batch or two on
their way already, the next commands wait uncommitted for as long as an append may take, then 503 and nothing happened.
What was committed and has not reached a layer in time is 504 with its position: it happened, and it will be shipped.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from weft.coordinator.homenote import HomeNote
from weft.ledger import Journal
from weft.ledger.board import Board, Routing
from weft.ledger.envelope import NO_CLUSTER, OVERHEAD_BYTES
from weft.ledger.layer import Commitment, commit_to
from weft.ledger.pending import SHIPPED, PendingList
from weft.ledger.reconciler import Reconciler
from weft.ledger.router import Router, spell_failure
from weft.model.availability import Acknowledgement, AvailabilityPolicy, Role
from weft.model.batch import SealedBatch
from weft.model.errors import (
    BlobDamaged,
    BlobMissing,
    BlobTooLarge,
    JournalFailed,
    LayerFailed,
    NoLayer,
    NotAvailableYet,
    PendingFailed,
)
from weft.model.ids import ClusterId, Position
from weft.model.policy import (
    AVAILABLE_MS_MAX,
    HOME_NOTE_MS,
    PUT_AGAIN_MS,
    SHIPPED_AHEAD_BATCHES_MAX,
    SHIPPED_NOTE_BATCHES,
)
from weft.telemetry import Log, Metrics

Wrap = Callable[[SealedBatch], list[bytes]]
"""A batch as it goes to layers: one blob, or several where no layer would take one so large."""

_TURNS: Final = 2
"""Blobs that come home for each new batch that is let in behind them."""
_HELD_SHARE: Final = 4
"""A write is held for the last few blobs no longer than one part in so many of what its answer may take."""
_FRESH_MAX: Final = 2 * SHIPPED_AHEAD_BATCHES_MAX
"""Batches kept at hand from the writer; the journal has the others."""
_CUTS_MAX: Final = 8
"""So often is a batch cut smaller: from the largest blob to the smallest a layer may take, by halves, is less."""
_READ_BATCHES: Final = 64
"""Batches compared at once with what the primary has; with the largest ones that is what a start can hold."""


class Shipper:
    """Ships the log of one coordinator, and knows how far it is available."""

    def __init__(
        self,
        router: Router,
        board: Board,
        reconciler: Reconciler,
        pending: PendingList,
        journal: Journal,
        wrap: Wrap,
        policy: AvailabilityPolicy,
        log: Log,
        metrics: Metrics,
        *,
        home: HomeNote | None = None,
        available_ms_max: int = AVAILABLE_MS_MAX,
    ) -> None:
        """`home` is where coordinators that share the journal tell each other how far the primary holds it."""
        self._home = home
        self._router, self._board, self._reconciler = router, board, reconciler
        self._pending, self._journal, self._wrap, self._policy = pending, journal, wrap, policy
        self._log = log
        self._available_ms_max = available_ms_max
        self._committed = self._shipped = self._inherited = self._noted = Position(0)
        self._fresh: dict[Position, SealedBatch] = {}
        self._waiting: dict[asyncio.Future[None], Position] = {}
        self._cluster_id = NO_CLUSTER
        self._turns_taken = 0
        self._turn: Position | None = None
        self._is_noted_each = self._is_begun = self._is_paused = self._is_behind = False
        self._batches = metrics.counter("weft_batches_shipped_total", "Batches a layer took, by role.", ("role",))
        metrics.gauge("weft_available_position", "How far the log is in a layer.", lambda: self._shipped)

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch every layer takes, in its envelope."""
        return self._router.blob_bytes_max - OVERHEAD_BYTES

    @property
    def shipped(self) -> Position:
        """Every batch up to here is in a layer for good, and on the pending list when that is a fallback."""
        return self._shipped

    def noted(self) -> Position:
        """Up to here nobody needs the journal to ship from it, whenever this process ends."""
        return self._noted

    async def begin(self, position: Position, cluster_id: ClusterId) -> None:
        """The log was followed to a position: find out where to go on. Another cluster's note is none of ours.

        What the journal no longer has was let go of before there was a layer; a snapshot has it.
        """
        self._cluster_id = cluster_id
        note = await self._pending.noted(SHIPPED)
        cluster, _, count = (note or "").partition(" ")
        if cluster == cluster_id.hex() and count.isdigit() and int(count) <= position:
            self._shipped = Position(int(count))
        elif note is not None:
            self._router.forget_cursors()
        self._noted = self._shipped
        oldest = await self._journal.oldest()
        if self._shipped + 1 < oldest:
            self._log.warning("the journal does not reach back to what was shipped last", first=oldest)
            self._noted = self._shipped = Position(oldest - 1)
        await self._find_place(position)
        self._inherited = max(self._inherited, position)
        self._committed = max(self._committed, position)
        self._is_begun = True
        self._count_unshipped()

    def pause(self) -> None:
        """Another writer reigns, and ships: what is under way is finished, and nothing more is begun."""
        self._is_paused = True
        self._count_unshipped()

    def resume(self, position: Position) -> None:
        """The log was followed to a position, and is shipped from here on again by this one.

        What others wrote meanwhile they have shipped, most of it, so it is looked for as after a restart.
        """
        self._is_paused = False
        self._inherited = self._committed = max(self._committed, position)
        if self._is_begun:
            self._is_behind = True
            self._count_unshipped()

    def offer(self, sealed: SealedBatch) -> None:
        """A batch was committed and merged."""
        position = sealed.batch.position
        self._committed = max(self._committed, position)
        if len(self._fresh) < _FRESH_MAX:
            self._fresh[position] = sealed
        self._count_unshipped()

    def check(self) -> None:
        """Raise `NoLayer` when a write could not be acknowledged whatever became of it."""
        if self._policy.acknowledgement is Acknowledgement.AVAILABLE and self._board.now.active is None:
            raise NoLayer("no availability layer can take a write now, and nothing was done; try again")

    async def has_room(self, within_ms: int) -> bool:
        """Wait until another batch may be committed, so long at most."""
        if self._policy.acknowledgement is Acknowledgement.COMMITTED or self._is_open(self._board.now):
            return True
        try:
            async with asyncio.timeout(within_ms / 1_000):
                await self._board.until(lambda now: self._is_open(now) or now.active is None)
        except TimeoutError:
            return False
        return self._is_open(self._board.now)

    async def reached(self, position: Position) -> None:
        """Return when a position is available. Raises `NotAvailableYet` when it is not in time."""
        if self._policy.acknowledgement is Acknowledgement.COMMITTED:
            return
        if position <= self._shipped:
            self._refuse_behind_stuck(position)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = position
        try:
            await asyncio.wait({future}, timeout=self._available_ms_max / 1_000)
        finally:
            del self._waiting[future]
        self._refuse_behind_stuck(position)
        if position > self._shipped:
            raise NotAvailableYet(
                f"position {position} is committed, and no availability layer holds it yet; it will be put there. "
                "Repeating the request under its Weft-Request-Id waits on",
                position=position,
            )

    def _refuse_behind_stuck(self, position: Position) -> None:
        """What comes after a batch that no layer takes cannot be rebuilt from layers, so it is not available either."""
        stuck = self._pending.homeless_position
        if stuck is not None and stuck <= position:
            raise NotAvailableYet(
                f"position {position} is committed, and no layer takes the batch at position {stuck}, which is on the "
                "list of stuck ones; see `weft ledger stuck`, and have it tried again once a layer takes it",
                position=position,
            )

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await self._board.until(lambda now: now.unshipped > 0)
            try:
                if self._is_behind:
                    self._is_behind = False
                    await self._find_place(self._inherited)
                    self._answer(self._shipped)
                    self._count_unshipped()
                    continue
                sealed = await self._next()
                await self._ship(sealed)
            except (JournalFailed, PendingFailed) as error:
                self._log.warning("a batch could not be shipped", code=error.code, reason=error.message)
                await asyncio.sleep(PUT_AGAIN_MS / 1_000)
                continue
            await self._advance(sealed.batch.position)

    async def finish(self, within_ms: int) -> None:
        """Wait until everything committed is shipped, so long at most, and note how far it came."""
        try:
            async with asyncio.timeout(within_ms / 1_000):
                await self._board.until(lambda now: now.unshipped == 0)
        except TimeoutError:
            self._log.warning("stopping with batches in no layer", first=self._shipped + 1, last=self._committed)
        await self._note()
        if self._home is not None:
            await self._tell_home(self._home)

    def release(self) -> None:
        """The process is stopping: nobody waits any longer."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def newest(self, count_max: int) -> list[SealedBatch]:
        """The last batches that were shipped."""
        first = max(0, self._shipped - count_max)
        return [
            sealed
            for sealed in await self._journal.read(Position(first), count_max)
            if sealed.batch.position <= self._shipped
        ]

    async def tell_home(self) -> None:
        """Leave word, until cancelled, of how far the primary holds the log without a hole."""
        while self._home is not None:
            await asyncio.sleep(HOME_NOTE_MS / 1_000)
            await self._tell_home(self._home)

    async def _tell_home(self, home: HomeNote) -> None:
        if self._is_paused or not self._is_begun:
            return
        shipped = self._shipped
        try:
            # In this order: what is shipped after the list was read is not counted.
            first = await self._pending.first_position()
        except PendingFailed as error:
            self._log.warning("how far the log was shipped could not be told", reason=error.message)
            return
        await home.leave(shipped if first is None else min(shipped, Position(first - 1)))

    async def _find_place(self, position: Position) -> None:
        """What is unaccounted for up to a position was shipped by others, perhaps: they have said so, or it is there.

        What the primary was seen to hold once is not asked for again: it may have been pruned since.
        """
        if self._home is not None:
            self._shipped = max(self._shipped, min(await self._home.read(), position))
        if position - self._shipped > SHIPPED_NOTE_BATCHES:
            await self._read_primary(position)

    async def _read_primary(self, position: Position) -> None:
        """More is unaccounted for than this disk would leave open: another's log, or a disk that is new.

        The primary is read through once, which is quicker than asking for each batch. What it does not show is asked
        for one by one, so a read that was cut short costs time and nothing else. Another batch than the
        journal's, at the same position, is another blob and does not count.
        """
        held: set[Commitment] = set()

        def see(commitment: Commitment, _: int, __: bytes) -> None:
            held.add(commitment)

        self._router.forget_cursors()
        try:
            async with asyncio.timeout(self._available_ms_max / 1_000):
                await self._router.scan_on(Role.PRIMARY, see)
        except (TimeoutError, LayerFailed) as error:
            self._log.warning("the primary could not be read through", reason=str(error))
        while self._shipped < position:
            for sealed in await self._journal.read(self._shipped, min(_READ_BATCHES, position - self._shipped)):
                if any(commit_to(blob) not in held for blob in self._wrap(sealed)):
                    return
                self._shipped = sealed.batch.position

    async def _next(self) -> SealedBatch:
        due = Position(self._shipped + 1)
        if (fresh := self._fresh.pop(due, None)) is not None:
            return fresh
        run = await self._journal.read(self._shipped, 1)
        if not run:
            raise JournalFailed(f"the journal has lost its batch at position {due}", position=due)
        return run[0]

    async def _ship(self, sealed: SealedBatch) -> None:
        """Have layers keep a batch, or put it on the list as stuck when none ever will."""
        position, cut_count = sealed.batch.position, 0
        while True:
            blobs = self._wrap(sealed)
            try:
                for blob in blobs:
                    await self._ship_one(blob, position)
                return
            except BlobTooLarge as error:
                # A layer has just learned that less is taken; the batch is cut again by that, so often at most.
                cut_count += 1
                if cut_count <= _CUTS_MAX and _largest_bytes(self._wrap(sealed)) < _largest_bytes(blobs):
                    continue
                await self._give_up(blobs, position, error)
                return

    async def _ship_one(self, blob: bytes, position: Position) -> None:
        if position <= self._inherited and await self._is_kept(blob, position):
            self._batches.add(1, "found")
            return
        placed = await self._router.store(blob, lambda now: self._choose(now, position), position=position)
        self._batches.add(1, placed.role.value)
        if self._turn == position:
            self._turns_taken = self._reconciler.settled_count
        self._is_noted_each = placed.role is not Role.PRIMARY

    async def _give_up(self, blobs: Sequence[bytes], position: Position, error: BlobTooLarge) -> None:
        """No layer takes this batch, however it is cut. It is listed, and what comes after it is shipped."""
        self._log.error("a batch is stuck: no layer takes it", position=position, reason=error.message)
        for blob in blobs:
            await self._router.track(Role.PRIMARY, commit_to(blob), len(blob), position)
            await self._pending.note_failure(commit_to(blob), spell_failure(error), is_stuck=True)
        self._board.count_pending(self._pending.count, self._pending.stuck_count)
        self._is_noted_each = True

    async def _is_kept(self, blob: bytes, position: Position) -> bool:
        """Whether a batch that a life before this one may have put is where an answer may rest on it.

        The pending list says so, or the primary. A fallback that gives the blob does not: validators keep it, perhaps,
        that were too few to sign for it. Then it is put once more, which is harmless where it was kept.
        """
        commitment = commit_to(blob)
        if await self._pending.sources(commitment):
            return True
        if not self._board.now.is_healthy(Role.PRIMARY):
            return False
        try:
            await self._router.get_from(Role.PRIMARY, commitment)
        except (BlobMissing, BlobDamaged):
            return False
        except LayerFailed as error:
            self._log.warning("the primary could not be asked for a batch", position=position, reason=error.message)
            return False
        return True

    def _choose(self, now: Routing, position: Position) -> Role | None:
        """Where the next batch of the log goes: behind everything that is still on its way to the primary."""
        if now.active is not Role.PRIMARY:
            self._turn = None
            return now.active
        # A posted blob holds back nobody: it stands in no order with the log.
        waiting = self._pending.log_count
        if waiting == 0 and not self._router.in_flight:
            return Role.PRIMARY
        if not self._reconciler.is_bringing:
            return now.fallback or Role.PRIMARY
        if self._turn != position:
            settled = self._reconciler.settled_count - self._turns_taken
            if settled < _TURNS or self._is_nearly_home(waiting):
                return None
            self._turn = position
        # With no fallback that is well it goes where the others go, ahead of some of them: readers go by positions.
        return now.fallback or Role.PRIMARY

    def _is_nearly_home(self, waiting: int) -> bool:
        """Whether a write can wait for the last few, and be answered long before its time is up."""
        left_ms = waiting * self._reconciler.blob_ms
        return waiting <= self._policy.reconcile.batch_size and left_ms <= self._available_ms_max // _HELD_SHARE

    async def _advance(self, position: Position) -> None:
        self._shipped = position
        self._fresh = {place: sealed for place, sealed in self._fresh.items() if place > position}
        self._count_unshipped()
        self._answer(position)
        # In an outage the primary cannot be asked what it has, so whoever starts in it needs the exact place.
        if self._is_noted_each or position - self._noted >= SHIPPED_NOTE_BATCHES:
            await self._note()

    async def _note(self) -> None:
        """An old note costs a few lookups after a restart, so a failure to write it is worth a line and no more."""
        if self._shipped == self._noted:
            return
        shipped = self._shipped
        try:
            await self._pending.note(SHIPPED, f"{self._cluster_id.hex()} {shipped}")
        except PendingFailed as error:
            self._log.warning("how far the log was shipped could not be noted", reason=error.message)
        else:
            self._noted = shipped

    def _count_unshipped(self) -> None:
        self._board.count_unshipped(0 if self._is_paused else self._committed - self._shipped)

    def _answer(self, position: Position) -> None:
        for future, due in self._waiting.items():
            if due <= position and not future.done():
                future.set_result(None)

    def _is_open(self, now: Routing) -> bool:
        return now.active is not None and now.unshipped < SHIPPED_AHEAD_BATCHES_MAX


def _largest_bytes(blobs: Sequence[bytes]) -> int:
    """The size of the largest. Smaller parts may be as many as before."""
    return max(len(blob) for blob in blobs)
