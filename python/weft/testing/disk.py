"""A disk that outlives the processes on it, and the journal a coordinator keeps there.

A batch is written first and synced a while later, and the append returns only then. A crash in between leaves the disk
with what was synced and, as the seed has it, with none or some of the rest: a tail that is torn is no batch and is cut
off when the journal is next opened, as SQLite cuts off a transaction without its commit. So a batch whose append never
returned may be there or not, and one whose append did is always there.
"""

import asyncio
import random
from collections.abc import Sequence

from weft.ledger.chain import StoredBatch, verify_run
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import Closed, JournalFailed, PositionTaken
from weft.model.ids import Position
from weft.model.policy import BATCH_BYTES_MAX
from weft.testing.faults import Fault


class Disk:
    """What is kept. `sync_s` is what a sync takes now; `refuses` fails an append before or after the batch is kept."""

    def __init__(self, chance: random.Random, *, sync_s: float = 0.001) -> None:
        self.rows: list[StoredBatch] = []
        self.synced_count = 0
        self.sync_s = sync_s
        self.refuses = Fault(chance)
        self.lies = False
        self._random = chance

    def crash(self) -> int:
        """Power is lost: some of what was not synced goes. Returns how many batches that was."""
        unsynced = len(self.rows) - self.synced_count
        kept = self._random.randint(0, unsynced)
        lost = unsynced - kept
        if lost:
            del self.rows[-lost:]
        self.synced_count = len(self.rows)
        return lost

    def coin(self) -> bool:
        """Whether an append that fails kept its batch all the same."""
        return self._random.random() < 0.5


class DiskJournal:
    """The journal port on a `Disk`, for one life of a coordinator. `sever` cuts a killed process off."""

    batch_bytes_max = BATCH_BYTES_MAX

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._closed = False

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`; it is synced when this returns."""
        self._check_open()
        disk, batch = self._disk, sealed.batch
        if expected_position != len(disk.rows):
            raise PositionTaken(f"the tail is at {len(disk.rows)}", position=len(disk.rows))
        refused = disk.refuses.strikes()
        if not refused or disk.coin():
            disk.rows.append(
                StoredBatch(position=batch.position, parent=batch.parent, digest=sealed.digest, body=sealed.body)
            )
        if disk.lies:
            return
        await asyncio.sleep(disk.sync_s)
        self._check_open()
        disk.synced_count = len(disk.rows)
        if refused:
            raise JournalFailed("the disk reports an error", reason="EIO")

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        self._check_open()
        rows = self._disk.rows
        parent = Digest(rows[after - 1].digest) if after > 0 else NO_DIGEST
        return verify_run(rows[after : after + count_max], after, parent, "the simulated disk")

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        return Position(1 if self._disk.rows else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        return Position(len(self._disk.rows))

    async def trim(self, before: Position) -> None:
        """A simulated life is short: what a simulated disk has it keeps."""
        raise JournalFailed(f"the simulated disk keeps everything, {before} and before too")

    async def begin(self, after: Position, digest: Digest) -> None:  # noqa: ARG002
        """A simulated log begins at its beginning."""
        raise JournalFailed(f"the simulated disk begins at 1, not after {after}")

    async def close(self) -> None:
        """Let go. What was appended stays."""
        self._closed = True

    def sever(self) -> None:
        """The process was killed: nothing of it reaches the disk any more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")
