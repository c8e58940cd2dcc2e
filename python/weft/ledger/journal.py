"""The port of a journal, written from the side of the one who writes the log.

A journal holds batches at positions 1, 2, 3 and so on, without a gap. What if the answer to an append is lost? Then
the writer reads the tail: its batch is there or it is not, and the position says which. What if an append arrives
twice? The second expects a position that is no longer the tail and is refused.

A shared journal is reached by several coordinators. Two verbs let one write and the others follow: `wait` for what
it appends, and a pulse beside the log by which they know that it lives. A pulse is no fact: only the newest is kept,
nothing waits for a disk because of it, and when it stops nobody has lost the pen yet. Who writes is settled by
appending, and by nothing else.

Two more keep one note beside the log, which outlives its writer: how far the primary layer holds it. What if a note is
lost, or older than the truth? Then whoever takes over looks more up, and puts a few batches again. While a rebuild
fills the journal the note says so instead (`weft.ledger.filling`).
"""

from collections.abc import Sequence
from typing import Protocol

from weft.model.batch import SealedBatch
from weft.model.canonical import Digest
from weft.model.ids import Position


class Journal(Protocol):
    """Gives every batch its position. One suite in tests/conformance holds every implementation to this."""

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch it takes. A larger one is `BatchTooLarge` before anything is sent."""
        ...

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`, durably, before returning.

        Raises `PositionTaken` when that is not the tail, having kept nothing. Any other `JournalFailed` leaves open
        whether the batch was kept; reading the tail settles it.
        """
        ...

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position, in order, at most so many, each verified against the one before it.

        Raises `JournalDamaged`, naming the first position that is wrong or missing, and `JournalTrimmed` when the log
        no longer begins early enough.
        """
        ...

    async def oldest(self) -> Position:
        """The position of the oldest batch that is still kept, 0 when there is none."""
        ...

    async def tail(self) -> Position:
        """The position of the last batch kept, 0 when there is none."""
        ...

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position. The batch there stays, and so does the tail."""
        ...

    async def begin(self, after: Position, digest: Digest) -> None:
        """Have an empty journal go on after a position whose batch has this digest, as a rebuild from a snapshot does.

        Raises `PositionTaken` when it is not empty.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held. What was appended stays."""
        ...


class SharedJournal(Journal, Protocol):
    """A journal that several coordinators reach."""

    async def wait(self, after: Position, ms_max: int) -> None:
        """Return when there may be a batch after a position, or the time has passed. A hint: reading says."""
        ...

    async def pulse(self, sign: bytes) -> None:
        """Leave a sign of life in place of the last one. Raises `JournalFailed`."""
        ...

    async def last_pulse(self) -> bytes:
        """The last sign of life, empty when there is none. Raises `JournalFailed`."""
        ...

    async def note(self, text: bytes) -> None:
        """Leave a note for whoever writes next, durably, in place of the last one. Raises `JournalFailed`."""
        ...

    async def last_note(self) -> bytes:
        """The last note, empty when there is none. Raises `JournalFailed`."""
        ...
