"""A journal in memory: for tests, and for a coordinator that is to forget everything when it stops."""

import asyncio
from collections.abc import Sequence

from weft.ledger.chain import StoredBatch, not_empty, too_large, trimmed, verify_run
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import Closed, PositionTaken
from weft.model.ids import Position
from weft.model.policy import BATCH_BYTES_MAX

_PATH = "the memory journal"


class MemoryJournal:
    """Holds the same rows a durable journal would, and verifies them in the same way when they are read."""

    def __init__(self, batch_bytes_max: int = BATCH_BYTES_MAX) -> None:
        self.batch_bytes_max = batch_bytes_max
        self._rows: list[StoredBatch] = []
        self._first = 1
        self._sign = self._note = b""
        self._news = asyncio.Event()
        self._closed = False

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`."""
        self._check_open()
        if len(sealed.body) > self.batch_bytes_max:
            raise too_large(_PATH, len(sealed.body), self.batch_bytes_max)
        if expected_position != self._last:
            raise PositionTaken(
                f"the journal's tail is at {self._last}, not at {expected_position}", position=self._last
            )
        batch = sealed.batch
        self._rows.append(
            StoredBatch(position=batch.position, parent=batch.parent, digest=sealed.digest, body=sealed.body)
        )
        self._news.set()

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        self._check_open()
        start = after + 1 - self._first
        if start < 0:
            raise trimmed(_PATH, after + 1, self._first)
        parent = Digest(self._rows[start - 1].digest) if start > 0 else None if after > 0 else NO_DIGEST
        return verify_run(self._rows[start : start + count_max], after, parent, _PATH)

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        self._check_open()
        return Position(self._rows[0].position if self._rows else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        self._check_open()
        return Position(self._last)

    async def trim(self, before: Position) -> None:
        """Let go of every batch before a position."""
        self._check_open()
        cut = min(before, self._last) - self._first
        if cut > 0:
            del self._rows[:cut]
            self._first += cut

    async def begin(self, after: Position, digest: Digest) -> None:  # noqa: ARG002
        """Have an empty journal go on after a position. What follows is checked against its parent by who follows."""
        self._check_open()
        if self._last > 0:
            raise not_empty(_PATH, self._last)
        self._first = after + 1

    async def wait(self, after: Position, ms_max: int) -> None:
        """Return when there may be a batch after a position."""
        self._check_open()
        if self._last <= after:
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            await asyncio.wait({news}, timeout=ms_max / 1_000)
            news.cancel()

    async def pulse(self, sign: bytes) -> None:
        """Leave a sign of life."""
        self._check_open()
        self._sign = sign

    async def last_pulse(self) -> bytes:
        """The last sign of life."""
        self._check_open()
        return self._sign

    async def note(self, text: bytes) -> None:
        """Leave a note."""
        self._check_open()
        self._note = text

    async def last_note(self) -> bytes:
        """The last note."""
        self._check_open()
        return self._note

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True

    @property
    def _last(self) -> int:
        return self._first + len(self._rows) - 1

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")
