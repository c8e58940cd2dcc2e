"""Taking snapshots, beginning with the newest good one, and letting go of the log below the oldest kept.

A snapshot is taken each so many events, from a copy of the tables, by a thread: nobody waits for it. One that fails is
told and tried again after as many events more. Only what is older than every snapshot kept, and than a number of
batches besides, is let go of, so a reader that follows the log has time, and a damaged snapshot has another before it
and the log that leads on from there.

What if the journal no longer begins at its beginning, and no snapshot is good? Then nothing is guessed: the coordinator
refuses to start, and says which positions are missing and how to rebuild them.
"""

import asyncio
from collections.abc import Awaitable, Callable

from weft.coordinator.writer import Writer
from weft.core.snapshot import Answered, Snapshot, capture, describe, restore
from weft.core.state import Draft, State
from weft.ledger import Journal
from weft.ledger.snapshot import SnapshotFolder
from weft.model.errors import Failed, JournalDamaged, JournalFailed, SnapshotDamaged, SnapshotFailed
from weft.model.events import Event
from weft.model.ids import Position
from weft.model.policy import JOURNAL_KEPT_BATCHES, SNAPSHOT_EVENTS
from weft.telemetry import Log, Metrics


class Snapshots:
    """The snapshots of one coordinator; without a folder there are none, and the whole log is lived through."""

    def __init__(
        self,
        writer: Writer,
        journal: Journal,
        folder: SnapshotFolder | None,
        log: Log,
        metrics: Metrics,
        *,
        trims: bool,
        every_events: int = SNAPSHOT_EVENTS,
        kept_batches: int = JOURNAL_KEPT_BATCHES,
        shipped: Callable[[], Position] | None = None,
        post: Callable[[bytes], Awaitable[object]] | None = None,
    ) -> None:
        """`trims` where the journal is this coordinator's alone: another's snapshots may be older than ours.

        What is not `shipped` to a layer stays in the journal: it is the list of what is still to be shipped. `post`
        puts a piece of a snapshot into a layer, for whoever rebuilds from it when it has pruned what came before.
        """
        self._post = post
        self._shipped = shipped
        self._writer = writer
        self._journal = journal
        self._folder = folder
        self._log = log
        self._trims = trims
        self._every_events = every_events
        self._kept_batches = kept_batches
        self._taken_sequence = 0
        self._taking: asyncio.Task[None] | None = None
        self._taken = metrics.counter("weft_snapshots_total", "Snapshots taken.")
        metrics.gauge("weft_snapshot_position", "The position of the newest snapshot.", lambda: float(self.newest))

    async def begin(self) -> None:
        """Adopt the newest snapshot that is good and that the log leads on from. Raises `JournalDamaged`."""
        if self._folder is None:
            return
        self._folder.open()
        oldest, tail = await self._journal.oldest(), await self._journal.tail()
        if (newest := next(iter(self._folder.positions()), 0)) > tail:
            raise JournalDamaged(
                f"the journal ends at position {tail}, and {self._folder.directory} has a snapshot of {newest}: the "
                "journal is an older copy, or lost. Restore it, or run: weft ledger rebuild --from LAYER",
                position=tail + 1,
            )
        for position in self._folder.positions():
            if position < oldest - 1:
                break
            try:
                state, answered = await asyncio.to_thread(self._load, position)
            except SnapshotDamaged as error:
                self._log.error("a snapshot was passed over", position=position, reason=error.message)
                continue
            if not await self._leads_on(state, tail):
                self._log.error("a snapshot is not of this log", position=position)
                continue
            self._writer.adopt(state, answered)
            self._taken_sequence = state.marks.sequence
            self._log.info("snapshot adopted", position=position, tail=tail)
            return
        if oldest > 1:
            raise JournalDamaged(
                f"the journal begins at position {oldest} and no good snapshot leads up to it; "
                "run: weft ledger rebuild --from LAYER",
                position=oldest - 1,
            )

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Take a snapshot when enough has happened since the last."""
        if self._folder is None or self._taking is not None:
            return
        if draft.marks.sequence - self._taken_sequence >= self._every_events:
            self._taking = asyncio.ensure_future(self._take(self._folder))

    async def take(self) -> Position:
        """Take one now. Raises `SnapshotFailed`."""
        if self._folder is None:
            raise SnapshotFailed("this coordinator keeps no snapshots: its journal is in memory")
        if self._taking is not None:
            await asyncio.shield(self._taking)
        position = await self._write(self._folder)
        await self._publish(self._folder)
        return position

    @property
    def newest(self) -> Position:
        """The position of the newest snapshot, 0 when there is none."""
        return next(iter(self._folder.positions()), Position(0)) if self._folder is not None else Position(0)

    async def oldest_good(self) -> Snapshot | None:
        """The oldest snapshot that is good, where the journal was trimmed and one is needed."""
        if self._folder is None or await self._journal.oldest() <= 1:
            return None
        for position in reversed(self._folder.positions()):
            try:
                return await asyncio.to_thread(self._folder.read, position)
            except SnapshotDamaged as error:
                self._log.error("a snapshot was passed over", position=position, reason=error.message)
        return None

    async def end(self) -> None:
        """Finish what is being written."""
        if self._taking is not None:
            await asyncio.wait({self._taking})

    async def _take(self, folder: SnapshotFolder) -> None:
        try:
            await self._write(folder)
            await self._let_go(folder)
            await self._publish(folder)
        except (SnapshotFailed, JournalFailed) as error:
            self._log.error("a snapshot could not be finished", code=error.code, reason=error.message)
        finally:
            self._taking = None

    async def _write(self, folder: SnapshotFolder) -> Position:
        held, answered = capture(self._writer.state), self._writer.answered()
        self._taken_sequence = held.marks.sequence
        await asyncio.to_thread(lambda: folder.write(describe(held, answered)))
        self._taken.add()
        self._log.info("snapshot taken", position=held.marks.position)
        return held.marks.position

    async def _publish(self, folder: SnapshotFolder) -> None:
        """Put the newest snapshot into a layer, where there is one and this coordinator writes.

        One that no layer takes is none the worse: the log is there, and the next snapshot is put as well.
        """
        if self._post is None or not self._writer.reigns:
            return
        position = self.newest
        try:
            for envelope in await asyncio.to_thread(folder.envelopes, position):
                await self._post(envelope)
        except Failed as error:
            self._log.warning("a snapshot was put into no layer", position=position, reason=error.message)

    async def _let_go(self, folder: SnapshotFolder) -> None:
        """Trim the journal below the oldest snapshot kept, and below what readers may still want."""
        if not self._trims:
            return
        before = min([*folder.positions(), self._writer.state.marks.position - self._kept_batches])
        if self._shipped is not None:
            before = min(before, self._shipped() + 1)
        if before > await self._journal.oldest() > 0:
            await self._journal.trim(Position(before))
            self._log.info("journal trimmed", oldest=before)

    async def _leads_on(self, state: State, tail: Position) -> bool:
        """Whether the log goes on from a state: the next batch follows it, or the last one is where it stands."""
        marks = state.marks
        if marks.position < tail:
            (following,) = await self._journal.read(marks.position, 1)
            return following.batch.parent == marks.log_digest
        if await self._journal.oldest() in (0, marks.position + 1):
            return True
        (last,) = await self._journal.read(Position(marks.position - 1), 1)
        return last.digest == marks.log_digest

    def _load(self, position: Position) -> tuple[State, tuple[Answered, ...]]:
        assert self._folder is not None
        snapshot = self._folder.read(position)
        return restore(snapshot), snapshot.answered
