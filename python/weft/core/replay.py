"""Following a log: what stands in it is checked, then applied, by the same `apply` that living through it used.

What if a batch comes twice, late, or out of order? Its position, its parent and its publisher's count say so, and
nothing of it is applied.
"""

from weft.core.dispatch import apply
from weft.core.state import Draft, State
from weft.model.batch import Batch, SealedBatch
from weft.model.errors import JournalDamaged
from weft.model.events import LedgerOpened


def follow(state: State, sealed: SealedBatch) -> Draft:
    """A draft of the state with one more batch. Raises `JournalDamaged` when the batch is not the next one."""
    batch = sealed.batch
    _check_place(state, batch)
    draft = Draft(state)
    for entry in batch.entries:
        apply(draft, entry.event)
    close_batch(draft, sealed)
    return draft


def close_batch(draft: Draft, sealed: SealedBatch) -> None:
    """Note in a draft where in the log its batch stands. The last step before it is merged, live and in replay."""
    batch = sealed.batch
    if batch.entries:
        draft.publishers.put(batch.publisher, batch.entries[-1].sequence)
    draft.marks = draft.marks._replace(position=batch.position, log_digest=sealed.digest)


def _check_place(state: State, batch: Batch) -> None:
    here = batch.position
    if here != state.marks.position + 1:
        raise _damaged(batch, f"follows position {state.marks.position}")
    if batch.parent != state.marks.log_digest:
        raise _damaged(batch, "does not name the batch before it as its parent")
    if state.ledger is None:
        opening = batch.entries[0].event if batch.entries else None
        if not isinstance(opening, LedgerOpened) or opening.cluster_id != batch.cluster_id:
            raise _damaged(batch, "does not open the ledger it begins")
    elif batch.cluster_id != state.ledger.cluster_id:
        raise _damaged(batch, "belongs to another cluster")
    elif batch.term < state.ledger.term:
        raise _damaged(batch, f"was written in term {batch.term}, after term {state.ledger.term} had begun")
    expected = (state.publishers.get(batch.publisher) or 0) + 1
    for entry in batch.entries:
        if entry.sequence != expected:
            raise _damaged(batch, f"holds event {entry.sequence} of {batch.publisher!r} where {expected} is due")
        expected += 1


def _damaged(batch: Batch, what: str) -> JournalDamaged:
    return JournalDamaged(f"the batch at position {batch.position} {what}", position=batch.position)
