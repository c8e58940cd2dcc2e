"""Checking a run of batches read back: their places, their digests and their parents.

Each stored row carries its position, its parent's digest and its own. A changed byte shows in the row's own digest, a
row put elsewhere in its position, an exchanged row in the next one's parent, and a missing end in the journal's note
of its tail.
"""

from collections.abc import Iterable
from typing import NamedTuple

from weft.model.batch import SealedBatch, unseal
from weft.model.canonical import Digest, log_digest
from weft.model.errors import BatchTooLarge, JournalDamaged, JournalTrimmed, PositionTaken
from weft.model.ids import Position


class StoredBatch(NamedTuple):
    """A row as a journal stores it."""

    position: int
    parent: bytes
    digest: bytes
    body: bytes


def verify_run(rows: Iterable[StoredBatch], after: Position, parent: Digest | None, path: str) -> list[SealedBatch]:
    """The batches of consecutive rows that follow `after`, whose digest is `parent`. Raises `JournalDamaged`.

    A parent of None is one that the journal no longer holds: whoever reads from there has its digest from a snapshot,
    and following the batch checks it.
    """
    run: list[SealedBatch] = []
    for row in rows:
        due = Position(after + len(run) + 1)
        if row.position != due:
            raise damaged(path, due, "is missing")
        digest = log_digest(row.body)
        if digest != row.digest:
            raise damaged(path, due, "does not have the digest it was stored with")
        try:
            sealed = unseal(row.body, due, digest)
        except JournalDamaged as error:
            raise damaged(path, due, f"is not what belongs there ({error.message})") from error
        parent = Digest(row.parent) if parent is None else parent
        if row.parent != parent or sealed.batch.parent != parent:
            raise damaged(path, due, "does not follow from the batch before it")
        run.append(sealed)
        parent = sealed.digest
    return run


def trimmed(path: str, position: int, oldest: int) -> JournalTrimmed:
    """The error for a place the log was cut off from."""
    return JournalTrimmed(
        f"{path} begins at position {oldest}; {position} was let go of after a snapshot",
        path=path,
        position=position,
        oldest=oldest,
    )


def not_empty(path: str, position: int) -> PositionTaken:
    """The error for a journal that was to begin somewhere and has begun."""
    return PositionTaken(f"{path} has begun already and is at position {position}", path=path, position=position)


def damaged(path: str, position: int, what: str) -> JournalDamaged:
    """The error that names the place, and what a person can do."""
    return JournalDamaged(
        f"the batch at position {position} of {path} {what}; run weft ledger rebuild, or restore it from a copy",
        path=path,
        position=position,
    )


def too_large(path: str, size_bytes: int, limit_bytes: int) -> BatchTooLarge:
    """The error for a batch no journal of this kind takes."""
    return BatchTooLarge(
        f"a batch of {size_bytes} bytes is more than the {limit_bytes} that {path} takes at once",
        path=path,
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )
