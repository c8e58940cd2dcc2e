"""Filling a journal that others reach, and what is left beside one that was not filled to its end.

A journal that ends too early looks like a good one: whoever began a term in it would go on where half of the log is
missing, and say that all of it is there. So whoever fills an empty one first leaves word of where it will end, in the
place of the note, and nobody uses it before it is that long. What if the filling is killed? The word stands. What if it
came to its end? Then the word says nothing any more, and the next writer's note takes its place.

Known weakness: a coordinator that cannot read the note, and can read the log, starts all the same.
"""

from typing import Final

import msgspec

from weft.ledger.journal import SharedJournal
from weft.model.canonical import canonical_bytes
from weft.model.errors import JournalFailed
from weft.model.ids import Position


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild fills this journal up to here."""

    filled_until: Position


_decoder: Final = msgspec.msgpack.Decoder(Filling)


async def announce_filling(journal: SharedJournal, until: Position) -> None:
    """Leave word, durably, that a log is being put here that ends at a position. Raises `JournalFailed`."""
    await journal.note(canonical_bytes(Filling(filled_until=until)))


async def read_filling(journal: SharedJournal) -> Position:
    """Up to where a rebuild has said that it fills a journal; 0 where none has. Raises `JournalFailed`."""
    try:
        return _decoder.decode(await journal.last_note()).filled_until
    except msgspec.DecodeError:
        return Position(0)


async def check_filled(journal: SharedJournal, until: Position, shown: str = "the journal") -> None:
    """Raise `JournalFailed` when a rebuild has begun to fill a journal and has not come to the end."""
    if until > 0 and (tail := await journal.tail()) < until:
        raise JournalFailed(
            f"{shown} is filled up to position {tail} of {until}: a rebuild is filling it, or was ended before it was "
            "done. Then empty it, or choose another name in it, and run `weft ledger rebuild` again",
            path=shown,
            position=tail,
        )
