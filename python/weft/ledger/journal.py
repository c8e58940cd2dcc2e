"""The port of a journal: four verbs, written from the side of the one who writes the log.

A journal holds batches at positions 1, 2, 3 and so on, without a gap. What if the answer to an append is lost? Then
the writer reads the tail: its batch is there or it is not, and the position says which. What if an append arrives
twice? The second expects a position that is no longer the tail and is refused.
"""

from collections.abc import Sequence
from typing import Protocol

from weft.model.batch import SealedBatch
from weft.model.ids import Position


class Journal(Protocol):
    """Gives every batch its position. One suite in tests/conformance holds every implementation to this."""

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`, durably, before returning.

        Raises `PositionTaken` when that is not the tail, having kept nothing. Any other `JournalFailed` leaves open
        whether the batch was kept; reading the tail settles it.
        """
        ...

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position, in order, at most so many, each verified against the one before it.

        Raises `JournalDamaged`, naming the first position that is wrong or missing.
        """
        ...

    async def oldest(self) -> Position:
        """The position of the oldest batch that is still kept, 0 when there is none."""
        ...

    async def tail(self) -> Position:
        """The position of the last batch kept, 0 when there is none."""
        ...

    async def close(self) -> None:
        """Let go of what is held. What was appended stays."""
        ...
