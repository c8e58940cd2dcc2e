"""What the pending list of a disk knows of a log that was rebuilt beside it.

The list says which batches were acknowledged because a fallback took them, and how far the log was shipped. A log that
was rebuilt from layers that lack one of these has lost an acknowledged write, and whoever goes on with it writes other
batches at the same positions. So such a rebuild is refused, unless a person gives up what is missing.

What if the list is of another cluster? Its note says so and is passed over; its entries are no batches of this log and
are named, because nobody else would say that they are there.
"""

from pathlib import Path
from typing import Final

from weft.core.state import State
from weft.ledger import Journal
from weft.ledger.parts import find_blob
from weft.ledger.pending import FILE_NAME, SHIPPED, PendingList
from weft.model.errors import JournalFailed
from weft.model.ids import Position
from weft.model.policy import LAYER_BLOB_BYTES_MAX
from weft.receipts import SigningKey

_PAGE: Final = 256
"""Entries read at once."""


async def check_list(
    directory: Path, state: State, journal: Journal | None, key: SigningKey, names: str, *, forced: bool
) -> str:
    """See that a rebuilt log has every batch the list of this disk tells of.

    Raises `JournalFailed` when it has not. Forced, what is not of the log is put aside instead; returns where a copy of
    the list is then, and an empty text otherwise. Without a journal the positions are compared and not the batches.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return ""
    pending = PendingList(directory)
    try:
        known, strange = await _read(pending, state, journal, key)
        position = state.marks.position
        if known <= position and not strange:
            return ""
        if forced:
            aside = _free_name(path)
            await pending.put_aside(strange, aside)
            return str(aside)
    finally:
        await pending.close()
    if known > position:
        raise JournalFailed(
            f"{path} tells of batches up to position {known} that a layer took and that were acknowledged, and {names} "
            f"gave the log up to {position} only; nothing was changed. Rebuild from the fallbacks as well "
            "(--from layers), or give up what is missing with --force",
            path=str(path),
            position=position + 1,
        )
    raise JournalFailed(
        f"{path} tells of a batch, blob {strange[0]}, that was acknowledged and is not in the log that {names} gave; "
        "nothing was changed. Rebuild from the layers that hold it, or give it up with --force",
        path=str(path),
    )


async def _read(
    pending: PendingList, state: State, journal: Journal | None, key: SigningKey
) -> tuple[Position, list[str]]:
    """The last position the list knows of, and its batches that are not in the log."""
    known, strange, position = Position(0), [], state.marks.position
    cluster, _, count = (await pending.noted(SHIPPED) or "").partition(" ")
    if state.ledger is not None and cluster == state.ledger.cluster_id.hex() and count.isdigit():
        known = Position(int(count))
    oldest = 0 if journal is None else await journal.oldest()
    after = 0
    while entries := await pending.read(after, _PAGE):
        after = entries[-1].sequence
        for entry in entries:
            if entry.position is None:
                continue
            known = max(known, entry.position)
            if entry.position > position:
                strange.append(entry.commitment)
            elif journal is not None and 0 < oldest <= entry.position:
                (sealed,) = await journal.read(Position(entry.position - 1), 1)
                if find_blob(key, sealed, entry.commitment, LAYER_BLOB_BYTES_MAX) is None:
                    strange.append(entry.commitment)
    return known, strange


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    return aside
