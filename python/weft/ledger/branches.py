"""Branches: two logs that go on from one position, and which of them counts.

A journal gives each position to one batch. Two stand in layers where a person gave the log up from some position on,
after a disk was lost, and it was lived on with from there: a *fork*. Which branch is met first in a layer says nothing,
so every batch that stands beside the one that was followed is remembered by its digest, its parent and its term, and
judged when all layers were read.

At the position where two branches part, the later term counts: whoever lived on began one. Of the same term, the one
that another batch names as its parent was committed. Where that says nothing either, or where the batch that would say
from where a branch came is missing, nobody can know, and the position is named. A branch that lost is lost with
everything that rests on it, however many terms it saw: every start of a coordinator begins one.

Known weakness: what came before a snapshot that was begun with is not judged, only what stands at its very position. A
snapshot beyond the end of the branch that counts is known for another's by its term, or by batches of that branch.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from weft.model.batch import SealedBatch
from weft.model.canonical import Digest
from weft.model.errors import JournalDamaged
from weft.model.ids import Position, Term

_DIGEST_BYTES: Final = 32

Chosen = Mapping[Position, Digest]
"""Of the batches at these positions, these count."""


class OtherBranch(Exception):  # noqa: N818 — it says what was found, and only `rebuild` hears of it.
    """The branch that was followed is not the one that counts: begin again, and take this batch at this position."""

    def __init__(self, position: Position, digest: Digest) -> None:
        super().__init__(f"another branch counts from position {position} on")
        self.position, self.digest = position, digest


class Beside(NamedTuple):
    """A batch that was not followed."""

    position: Position
    digest: Digest
    parent: Digest
    term: Term


class Branches:
    """What was followed, 32 bytes a batch, and what stands beside it."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self.begin(Position(0), Digest(bytes(_DIGEST_BYTES)), Term(0))

    def begin(self, position: Position, digest: Digest, term: Term) -> None:
        """What is followed begins after a position; what was known of anything before it is forgotten."""
        self._base, self._base_term = position, term
        self._digests = bytearray(digest)
        self._terms: list[Term] = []
        self._term_begins: list[Position] = []
        self._beside: dict[tuple[Position, Digest], Beside] = {}

    @property
    def end(self) -> Position:
        """The last position that was followed."""
        return Position(self._base + len(self._digests) // _DIGEST_BYTES - 1)

    def follow(self, sealed: SealedBatch) -> None:
        """One more batch was followed."""
        assert sealed.batch.position == self.end + 1, "batches are followed one after the other"
        self._digests += sealed.digest
        if not self._terms or sealed.batch.term != self._terms[-1]:
            self._terms.append(sealed.batch.term)
            self._term_begins.append(sealed.batch.position)

    def followed(self, position: Position, digest: Digest) -> bool:
        """Whether this is the batch that was followed at a position."""
        return self._base <= position <= self.end and self._digest_at(position) == digest

    def note(self, sealed: SealedBatch) -> None:
        """A batch stands at a position that was passed. It may be the one that was followed."""
        position = sealed.batch.position
        if self._base <= position <= self.end and not self.followed(position, sealed.digest):
            one = _beside(sealed)
            self._beside[position, one.digest] = one

    def judge(self, waiting: Iterable[SealedBatch]) -> set[Digest]:
        """The batches, of those that wait as well, that are of branches that lost.

        Raises `OtherBranch` when what was followed lost, and `JournalDamaged` when nobody can know.
        """
        known = dict(self._beside)
        known |= {(sealed.batch.position, sealed.digest): _beside(sealed) for sealed in waiting}
        # In order, so that a parent's root is known before its children ask for it.
        roots: dict[tuple[Position, Digest], Beside] = {}
        named: set[tuple[Position, Digest]] = set()
        for place in sorted(known):
            before = (Position(place[0] - 1), known[place].parent)
            named.add(before)
            roots[place] = roots.get(before, known[place])
        lost = {root.digest for root in dict.fromkeys(roots.values()) if self._is_lost(root, named)}
        return {known[place].digest for place, root in roots.items() if root.digest in lost}

    def _is_lost(self, root: Beside, named: set[tuple[Position, Digest]]) -> bool:
        """Whether the branch that begins with this batch lost; False for one that goes on behind what was followed."""
        position = root.position
        if position > self.end:
            return False
        if position == self._base:
            if root.term < self._base_term:
                return True
            raise _undecided(position, "and a snapshot says that it was another one than a layer holds")
        if self._digest_at(Position(position - 1)) != root.parent:
            if root.term <= self._terms[0]:
                # Whatever it parted from had begun no later term by then.
                return True
            raise JournalDamaged(
                f"batches from position {position} on are of another branch of this log, and the one at position "
                f"{position - 1} that says where it parted is missing; read another layer as well, or only the one "
                "that has the branch you want",
                position=position - 1,
            )
        if self._chosen.get(position) == self._digest_at(position):
            return True
        term = self._term_at(position)
        if root.term != term:
            if root.term > term:
                raise OtherBranch(position, root.digest)
            return True
        is_named, was_followed_on = (position, root.digest) in named, position < self.end
        if is_named == was_followed_on:
            raise _undecided(position, "and nothing says which was committed")
        if is_named:
            raise OtherBranch(position, root.digest)
        return True

    def _digest_at(self, position: Position) -> Digest:
        start = (position - self._base) * _DIGEST_BYTES
        return Digest(bytes(self._digests[start : start + _DIGEST_BYTES]))

    def _term_at(self, position: Position) -> Term:
        return self._terms[bisect_right(self._term_begins, position) - 1]


def choose(position: Position, fitting: list[SealedBatch], chosen: Chosen) -> list[SealedBatch]:
    """Of batches that all follow, those that may count: the one that was chosen, else those of the latest term."""
    if position in chosen:
        return [sealed for sealed in fitting if sealed.digest == chosen[position]]
    term = max((sealed.batch.term for sealed in fitting), default=0)
    return [sealed for sealed in fitting if sealed.batch.term == term]


def _beside(sealed: SealedBatch) -> Beside:
    batch = sealed.batch
    return Beside(batch.position, sealed.digest, batch.parent, batch.term)


def _undecided(position: Position, why: str) -> JournalDamaged:
    return JournalDamaged(f"two batches claim position {position}, {why}", position=position)
