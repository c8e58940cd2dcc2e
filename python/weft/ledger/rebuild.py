"""Rebuilding the state from nothing: from a journal, or from what availability layers hold.

Layers hold signed envelopes in no particular order, some twice, some of somebody else, some of them snapshots. Batches
are followed from the first position on as their turn comes, by the same `follow` that every coordinator uses, so a
batch that is missing, changed or put elsewhere is found before anything rests on it, and is named by its position.
Where the log has a gap and a snapshot stands beyond it, the rebuild begins anew from the snapshot. Several layers may
be read one after the other: what one is missing another may have.

What if two batches claim one position? `weft.ledger.branches` says which counts, and when that can be known. Where the
other one had been followed by then, everything is read once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from weft.core.replay import follow
from weft.core.snapshot import Answered, Snapshot, restore
from weft.core.state import State
from weft.ledger.branches import Branches, Chosen, OtherBranch, choose
from weft.ledger.envelope import Envelope, Kind, unwrap
from weft.ledger.journal import Journal
from weft.ledger.layer import Cursor, Layer
from weft.ledger.parts import PartTray
from weft.ledger.snapshot import join_pieces
from weft.model.batch import SealedBatch, unseal
from weft.model.canonical import Digest, log_digest
from weft.model.errors import BlobForeign, BlobPruned, JournalDamaged, SnapshotDamaged
from weft.model.ids import ClusterId, Position
from weft.model.policy import LAYER_SCAN_BLOBS_MAX, REBUILD_FORKS_MAX
from weft.receipts import PublicKey

_SLICE: Final = 16
"""Batches followed before others get a turn; with the largest batches that is some tens of milliseconds."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rebuild has come. `blobs` were looked at, `passed_over` of them are not this cluster's or not whole."""

    source: str
    position: Position
    events: int
    blobs: int = 0
    passed_over: int = 0


class Target:
    """What becomes of what is rebuilt: a state, and for whoever extends this a journal."""

    def __init__(self) -> None:
        self.state = State()
        self.answered: list[Answered] = []
        self.began_at = Position(0)

    async def forget(self) -> None:
        """Begin anew, from nothing."""
        self.state, self.answered, self.began_at = State(), [], Position(0)

    async def begin(self, snapshot: Snapshot) -> None:
        """Forget what was rebuilt and go on from a snapshot. Raises `SnapshotDamaged`."""
        self.state = restore(snapshot)
        self.answered = list(snapshot.answered)
        self.began_at = snapshot.position

    async def take(self, sealed: SealedBatch) -> None:
        """Follow one more batch. Raises `JournalDamaged` when it is not the next one."""
        self.state.merge(follow(self.state, sealed))


class JournalTarget(Target):
    """Rebuilds into an empty journal as well."""

    def __init__(self, journal: Journal, empty: Callable[[], Awaitable[Journal]]) -> None:
        """`empty` throws away what the journal holds and opens it again; asked only where a gap makes it needed."""
        super().__init__()
        self.journal = journal
        self._empty = empty

    async def forget(self) -> None:
        """Throw away what the journal was given."""
        if self.state.marks.position > 0:
            self.journal = await self._empty()
        await super().forget()

    async def begin(self, snapshot: Snapshot) -> None:
        """Have the journal go on where the snapshot ends."""
        if self.state.marks.position > 0:
            self.journal = await self._empty()
        await super().begin(snapshot)
        await self.journal.begin(snapshot.position, snapshot.log_digest)

    async def take(self, sealed: SealedBatch) -> None:
        """Keep a batch that follows."""
        expected = self.state.marks.position
        await super().take(sealed)
        await self.journal.append(sealed, expected)


Tell = Callable[[Progress], None]


async def rebuild_from_journal(
    journal: Journal, target: Target, tell: Tell, *, until: Position | None = None, base: Snapshot | None = None
) -> None:
    """Live through a journal, up to a position where one is given. `base` is a snapshot for one that was trimmed.

    Raises `JournalDamaged` at the first batch that is wrong, and `JournalTrimmed` when the base is missing or too old.
    """
    if base is not None and await journal.oldest() > 1:
        await target.begin(base)
    while until is None or target.state.marks.position < until:
        run = await journal.read(target.state.marks.position, _SLICE)
        if not run:
            return
        for sealed in run:
            if until is not None and sealed.batch.position > until:
                return
            await target.take(sealed)
        tell(Progress(source="journal", position=target.state.marks.position, events=target.state.marks.sequence))
        await asyncio.sleep(0)


async def rebuild_from_layers(
    layers: Sequence[Layer],
    public_keys: Collection[PublicKey],
    target: Target,
    tell: Tell,
    *,
    cluster_id: ClusterId | None = None,
    until: Position | None = None,
    chosen: Chosen = MappingProxyType({}),
    base: Position = Position(0),  # noqa: B008 - a number.
) -> Chosen:
    """Rebuild from what these layers hold between them, and say which branches were chosen where the log forks.

    Whoever rebuilds the same twice hands in what was chosen the first time, and as `base` the position of the snapshot
    that was begun with: what came before it is not followed then. Raises `JournalDamaged` naming the first
    position none has, and the position of a fork of which nobody can know which branch counts.
    """
    for _ in range(REBUILD_FORKS_MAX):
        assembly = _Assembly(target, until, chosen, base)
        try:
            await _read(layers, public_keys, assembly, target, tell, cluster_id)
        except OtherBranch as other:
            before = {position: digest for position, digest in chosen.items() if position < other.position}
            chosen = before | {other.position: other.digest}
            await target.forget()
        else:
            return chosen
    names = ", ".join(layer.name for layer in layers)
    raise JournalDamaged(
        f"the log forks more often in {names} than {REBUILD_FORKS_MAX} times, last at position {max(chosen)}",
        path=names,
        position=max(chosen),
    )


async def _read(
    layers: Sequence[Layer],
    public_keys: Collection[PublicKey],
    assembly: "_Assembly",
    target: Target,
    tell: Tell,
    cluster_id: ClusterId | None,
) -> None:
    """Read layers through, and follow what they hold as its turn comes."""
    blobs = passed_over = 0
    for layer in layers:
        cursor, is_end = Cursor(""), False
        while not is_end:
            try:
                stretch = await layer.scan(cursor, LAYER_SCAN_BLOBS_MAX)
            except BlobPruned as error:
                # Whether anything of the log is missing for it shows in the positions of what comes after the hole.
                if (after := error.facts.get("after")) in (None, cursor):
                    raise
                cursor = Cursor(str(after))
                continue
            for kept in stretch.kept:
                blobs += 1
                try:
                    assembly.offer(unwrap(kept.blob, public_keys, cluster_id))
                except (BlobForeign, JournalDamaged):
                    passed_over += 1
            await assembly.go_on()
            cursor, is_end = stretch.after, stretch.is_end
            marks = target.state.marks
            tell(
                Progress(
                    source=layer.name,
                    position=marks.position,
                    events=marks.sequence,
                    blobs=blobs,
                    passed_over=passed_over,
                )
            )
    await assembly.finish(", ".join(layer.name for layer in layers))


class _Assembly:
    """Batches and pieces that wait for their turn."""

    def __init__(self, target: Target, until: Position | None, chosen: Chosen, base: Position) -> None:
        self._target = target
        self._base = base
        self._until = until
        self._chosen = chosen
        self._branches = Branches(chosen)
        self._lost: set[Digest] = set()
        self._waiting: dict[int, dict[Digest, SealedBatch]] = {}
        self._pieces: dict[int, list[Envelope]] = {}
        self._tray = PartTray(self._is_known)

    def offer(self, envelope: Envelope) -> None:
        """Take in what was found. What is behind already, or beyond where the rebuild ends, is let go of."""
        position = envelope.sequence
        if self._until is not None and position > self._until:
            return
        if envelope.kind is Kind.SNAPSHOT:
            if position > self._position:
                self._pieces.setdefault(position, []).append(envelope)
        elif envelope.kind is Kind.BATCH:
            if self._is_known(Position(position), log_digest(envelope.payload)):
                return
            self._take_in(unseal(envelope.payload, Position(position)))
        elif envelope.kind is Kind.PART and (sealed := self._tray.add(envelope)):
            self._take_in(sealed)

    def _is_known(self, position: Position, digest: Digest) -> bool:
        """Whether a batch was followed, or waits for its turn."""
        return self._branches.followed(position, digest) or digest in self._waiting.get(position, ())

    def _take_in(self, sealed: SealedBatch) -> None:
        if self._position < sealed.batch.position <= self._base:
            return
        if sealed.batch.position <= self._position:
            self._branches.note(sealed)
            return
        self._waiting.setdefault(sealed.batch.position, {})[sealed.digest] = sealed

    async def go_on(self, *, at_the_end: bool = False) -> None:
        """Follow every batch whose turn has come."""
        count = 0
        while (sealed := self._next(at_the_end)) is not None:
            found = self._waiting.pop(self._position + 1)
            await self._target.take(sealed)
            self._branches.follow(sealed)
            for other in found.values():
                self._branches.note(other)
            count += 1
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        # A snapshot passes a gap, and there is none before where the rebuild stands.
        for position in [position for position in self._pieces if position <= self._position]:
            del self._pieces[position]

    async def finish(self, names: str) -> None:
        """Follow what is left. A gap is passed by a snapshot from beyond it, or refused."""
        await self.go_on(at_the_end=True)
        self._settle_branches()
        while self._waiting or self._beyond():
            snapshot = self._newest_whole()
            if snapshot is None:
                if not self._waiting:
                    return
                break
            await self._target.begin(snapshot)
            self._branches.begin(self._position, self._target.state.marks.log_digest, snapshot.ledger.term)
            behind = [sealed for sealed in self._all_waiting() if sealed.batch.position <= self._position]
            for sealed in behind:
                self._branches.note(sealed)
            self._waiting = {position: found for position, found in self._waiting.items() if position > self._position}
            await self.go_on(at_the_end=True)
            self._settle_branches()
        if self._waiting:
            missing = self._position + 1
            raise JournalDamaged(
                f"no batch that follows is at position {missing} of {names}, and the log goes on at "
                f"{min(self._waiting)}; read another layer as well, or the journal",
                path=names,
                position=missing,
            )
        if self._position == 0:
            raise JournalDamaged(f"nothing of this cluster's log is in {names}", path=names, position=1)

    @property
    def _position(self) -> Position:
        return self._target.state.marks.position

    def _next(self, at_the_end: bool) -> SealedBatch | None:
        parent = self._target.state.marks.log_digest
        found = self._waiting.get(self._position + 1, {}).values()
        fitting = [sealed for sealed in found if sealed.batch.parent == parent]
        fitting = choose(Position(self._position + 1), fitting, self._chosen)
        if len(fitting) <= 1:
            return fitting[0] if fitting else None
        # Two of one term that follow: whichever the next one names was committed. Without a next one, no one can say.
        named = {sealed.batch.parent for sealed in self._waiting.get(self._position + 2, {}).values()}
        chosen = [sealed for sealed in fitting if sealed.digest in named]
        if at_the_end and len(chosen) != 1:
            raise JournalDamaged(
                f"two batches claim position {self._position + 1}, and nothing says which was committed",
                position=self._position + 1,
            )
        return chosen[0] if len(chosen) == 1 else None

    def _all_waiting(self) -> list[SealedBatch]:
        return [sealed for found in self._waiting.values() for sealed in found.values()]

    def _settle_branches(self) -> None:
        """Let go of batches of branches that lost, and of a term that had ended before: none of them can follow.

        Raises `OtherBranch` when it is the one that was followed, and `JournalDamaged`.
        """
        lost = self._branches.judge(self._all_waiting())
        self._lost |= lost
        ledger = self._target.state.ledger
        ended = 0 if ledger is None else ledger.term
        left = {
            position: {
                digest: sealed for digest, sealed in found.items() if digest not in lost and sealed.batch.term >= ended
            }
            for position, found in self._waiting.items()
        }
        self._waiting = {position: found for position, found in left.items() if found}

    def _beyond(self) -> bool:
        return any(position > self._position for position in self._pieces)

    def _newest_whole(self) -> Snapshot | None:
        """The newest snapshot beyond where the rebuild stands of which every piece is here."""
        for position in sorted(self._pieces, reverse=True):
            if position <= self._position:
                return None
            try:
                snapshot = join_pieces(self._pieces.pop(position))
            except SnapshotDamaged:
                continue
            if not self._is_given_up(snapshot):
                return snapshot
        return None

    def _is_given_up(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is of a branch that lost: of an earlier term than was begun by here, or of its batches."""
        ledger = self._target.state.ledger
        return snapshot.log_digest in self._lost or (ledger is not None and snapshot.ledger.term < ledger.term)
