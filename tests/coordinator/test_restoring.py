"""A disk that is rebuilt knows what was acknowledged, and no rebuild takes that back without being told to."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.worlds import SECRET, CountingRandom, FakeClock, World, node
from weft.coordinator.restoring import Restored, restore_from_layers
from weft.ledger import SqliteJournal
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layer import commit_to
from weft.ledger.layers import MemoryLayer
from weft.ledger.pending import SHIPPED, PendingList
from weft.ledger.snapshot import SnapshotFolder
from weft.model.availability import Role
from weft.model.batch import SealedBatch
from weft.model.errors import JournalFailed
from weft.model.ids import Position
from weft.model.journal import JournalKind, JournalPlace
from weft.receipts import Domain, SigningKey

KEY = SigningKey.from_secret(SECRET, Domain.PUBLISHER)


def lived(*names: str) -> World:
    world = World.founded()
    for name in names:
        world.do(node(name))
    return world


LOG = lived("1", "2", "3", "4").log
END = Position(len(LOG))
SHORT = LOG[:-2]


def envelope(sealed: SealedBatch) -> bytes:
    return wrap(KEY, sealed.batch.cluster_id, Kind.BATCH, sealed.batch.position, sealed.body)


async def lay_down(directory: Path, log: Sequence[SealedBatch], *, shipped: int = 0) -> None:
    """A disk with a journal of the whole log, and a list that has these batches on it."""
    journal, pending = SqliteJournal(directory), PendingList(directory)
    for place, sealed in enumerate(LOG):
        await journal.append(sealed, Position(place))
    for sealed in log:
        await pending.add(commit_to(envelope(sealed)), Role.EMERGENCY, 0, 1, sealed.batch.position)
    await pending.add("ab" * 32, Role.EMERGENCY, 0, 1)
    if shipped:
        await pending.note(SHIPPED, f"{LOG[0].batch.cluster_id.hex()} {shipped}")
    await journal.close()
    await pending.close()


async def restore(directory: Path, log: Sequence[SealedBatch], *, forced: bool = False) -> Restored:
    layer = MemoryLayer(FakeClock(), CountingRandom())
    for sealed in log:
        await layer.put(envelope(sealed))
    place = JournalPlace(kind=JournalKind.SQLITE)
    snapshots = SnapshotFolder(directory / "snapshots", KEY)
    return await restore_from_layers([layer], place, directory, snapshots, KEY, lambda _: None, forced=forced)


async def tail(directory: Path) -> Position:
    journal = SqliteJournal(directory)
    try:
        return await journal.tail()
    finally:
        await journal.close()


def tell(story: Callable[[], Awaitable[None]]) -> None:
    async def within_a_minute() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(within_a_minute())


@pytest.mark.parametrize(("pending", "shipped"), [(LOG[-2:], 0), ((), END)])
def test_a_rebuild_that_lacks_acknowledged_batches_is_refused_and_changes_nothing(
    tmp_path: Path, pending: Sequence[SealedBatch], shipped: int
) -> None:
    disk = tmp_path

    async def story() -> None:
        await lay_down(disk, pending, shipped=shipped)
        with pytest.raises(JournalFailed, match=f"up to position {END} .* the log up to {END - 2} only"):
            await restore(disk, SHORT)
        assert await tail(disk) == END
        assert (await restore(disk, LOG)).position == END, "with every layer it is no question"

    tell(story)


def test_a_rebuild_that_found_another_batch_where_one_was_acknowledged_is_refused(tmp_path: Path) -> None:
    disk, other = tmp_path, lived("1", "2", "another", "4", "5").log

    async def story() -> None:
        await lay_down(disk, LOG[-2:])
        with pytest.raises(JournalFailed, match="acknowledged and is not in the log"):
            await restore(disk, other)
        assert await tail(disk) == END

    tell(story)


def test_a_forced_rebuild_puts_aside_the_batches_it_gives_up_and_no_others(tmp_path: Path) -> None:
    disk, kept = tmp_path, tmp_path / "kept"
    kept.mkdir()

    async def story() -> None:
        await lay_down(disk, LOG[-3:], shipped=END)
        restored = await restore(disk, SHORT, forced=True)
        assert (restored.position, await tail(disk)) == (END - 2, END - 2)
        pending = PendingList(disk)
        assert [blob.position for blob in await pending.read(0, 10)] == [END - 2, None]
        assert (pending.count, await pending.noted(SHIPPED)) == (2, None)
        await pending.close()
        shutil.copy(restored.list_aside, kept / "availability.sqlite")
        aside = PendingList(kept)
        assert [blob.position for blob in await aside.read(0, 10)] == [END - 2, END - 1, END, None]
        await aside.close()

    tell(story)


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_while_the_journals_are_exchanged_never_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    lived_in, disk = tmp_path / "lived-in", tmp_path / "disk"
    lived_in.mkdir()
    disk.mkdir()
    count, rename = 0, Path.rename

    def killed(path: Path, target: Path) -> Path:
        nonlocal count
        if path.name.startswith("journal.sqlite"):
            count += 1
            if count == renames + 1:
                raise InterruptedError
        return rename(path, target)

    async def story() -> None:
        journal = SqliteJournal(lived_in)
        for place, sealed in enumerate(LOG):
            await journal.append(sealed, Position(place))
        # As a kill leaves it: what was appended is in the write-ahead log alone.
        for end in ("", "-wal", "-shm"):
            shutil.copy(lived_in / f"journal.sqlite{end}", disk)
        await journal.close()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(InterruptedError):
                await restore(disk, SHORT)
        with pytest.raises(JournalFailed, match="a rebuild"):
            SqliteJournal(disk)
        await restore(disk, SHORT)
        again = SqliteJournal(disk)
        assert list(await again.read(Position(0), 100)) == SHORT
        await again.close()

    tell(story)
