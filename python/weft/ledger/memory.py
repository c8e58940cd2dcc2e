"""A journal in memory: for tests, and for a coordinator that is to forget everything when it stops."""

from collections.abc import Sequence

from weft.ledger.chain import StoredBatch, verify_run
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import Closed, PositionTaken
from weft.model.ids import Position


class MemoryJournal:
    """Holds the same rows a durable journal would, and verifies them in the same way when they are read."""

    def __init__(self) -> None:
        self._rows: list[StoredBatch] = []
        self._closed = False

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`."""
        self._check_open()
        if expected_position != len(self._rows):
            raise PositionTaken(
                f"the journal's tail is at {len(self._rows)}, not at {expected_position}", position=len(self._rows)
            )
        batch = sealed.batch
        self._rows.append(
            StoredBatch(position=batch.position, parent=batch.parent, digest=sealed.digest, body=sealed.body)
        )

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        self._check_open()
        parent = Digest(self._rows[after - 1].digest) if after > 0 else NO_DIGEST
        return verify_run(self._rows[after : after + count_max], after, parent, "the memory journal")

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        self._check_open()
        return Position(self._rows[0].position if self._rows else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        self._check_open()
        return Position(len(self._rows))

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")
