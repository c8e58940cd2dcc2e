"""A journal that several coordinators reach: filled from layers once and whole, and never emptied."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.test_rebuild import HALF, KEY, LOG, WORLD, blobs_of, forked
from tests.worlds import CountingRandom, FakeClock, coordinator_door
from weft.coordinator.restoring import Restored, restore_from_journal, restore_from_layers
from weft.core.snapshot import describe
from weft.core.state import state_digest
from weft.ledger import open_journal, open_shared_journal
from weft.ledger.layers import MemoryLayer
from weft.ledger.rebuild import JournalTarget
from weft.ledger.snapshot import SnapshotFolder, seal_snapshot
from weft.model.batch import SealedBatch
from weft.model.errors import JournalDamaged, JournalFailed
from weft.model.ids import Position
from weft.model.journal import JournalPlace

_names = iter(f"restored{number}" for number in range(1_000))


@pytest.fixture(params=["nats", "postgres"])
def place(request: pytest.FixtureRequest) -> JournalPlace:
    found: JournalPlace = request.getfixturevalue(f"{request.param}_server").place(next(_names))
    return found


async def restore(place: JournalPlace, directory: Path, *contents: Sequence[bytes]) -> Restored:
    layers = [MemoryLayer(FakeClock(), CountingRandom()) for _ in contents]
    for layer, content in zip(layers, contents, strict=True):
        for blob in content:
            await layer.put(blob)
    return await restore_from_layers(
        layers, place, directory, SnapshotFolder(directory / "snapshots", KEY), KEY, lambda _: None
    )


async def kept(place: JournalPlace, directory: Path, after: int = 0) -> list[SealedBatch]:
    journal = await open_journal(place, directory)
    try:
        return list(await journal.read(Position(after), 1_000))
    finally:
        await journal.close()


def tell(story: Any) -> None:
    async def within_a_minute() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(within_a_minute())


def test_an_empty_journal_is_filled_and_one_that_is_not_is_left_alone(place: JournalPlace, tmp_path: Path) -> None:
    async def story() -> None:
        restored = await restore(place, tmp_path, blobs_of(LOG))
        assert (restored.position, restored.state_digest) == (len(LOG), state_digest(WORLD.state))
        assert await kept(place, tmp_path) == LOG
        with pytest.raises(JournalFailed, match="holds a log"):
            await restore(place, tmp_path, blobs_of(LOG))
        again = await restore_from_journal(place, tmp_path, SnapshotFolder(tmp_path / "s", KEY), lambda _: None)
        assert (again.position, again.state_digest) == (restored.position, restored.state_digest)

    tell(story)


def test_layers_that_have_not_the_whole_log_leave_it_empty(place: JournalPlace, tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(JournalDamaged):
            await restore(place, tmp_path, blobs_of([*LOG[:7], *LOG[8:]]))
        assert await kept(place, tmp_path) == []

    tell(story)


def test_of_two_branches_it_is_given_the_one_that_counts_and_nothing_else(place: JournalPlace, tmp_path: Path) -> None:
    async def story() -> None:
        _, given_up, lived_on = forked(5, 2)
        restored = await restore(place, tmp_path, blobs_of(given_up.log), blobs_of(lived_on.log))
        assert restored.state_digest == state_digest(lived_on.state)
        assert await kept(place, tmp_path) == lived_on.log

    tell(story)


def test_behind_a_gap_it_begins_after_the_snapshot_that_passed_it(place: JournalPlace, tmp_path: Path) -> None:
    async def story() -> None:
        first = HALF.state.marks.position
        pieces = seal_snapshot(describe(HALF.state), KEY)
        restored = await restore(place, tmp_path, [*blobs_of(LOG[:4]), *pieces, *blobs_of(LOG[first:])])
        assert restored.state_digest == state_digest(WORLD.state)
        assert await kept(place, tmp_path, first) == LOG[first:]

    tell(story)


def test_one_whose_filling_was_cut_short_is_refused_until_it_is_whole(
    place: JournalPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start() -> None:
        shared = await open_shared_journal(place)
        try:
            async with coordinator_door(shared, shared=shared):
                pass
        finally:
            await shared.close()

    async def story() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(JournalTarget, "take", cut_short(JournalTarget.take, 7))
            with pytest.raises(Killed):
                await restore(place, tmp_path, blobs_of(LOG))
        assert await kept(place, tmp_path) == LOG[:7]
        for use in (
            start,
            lambda: restore(place, tmp_path, blobs_of(LOG)),
            lambda: restore_from_journal(place, tmp_path, SnapshotFolder(tmp_path / "s", KEY), lambda _: None),
        ):
            with pytest.raises(JournalFailed, match=f"filled up to position 7 of {len(LOG)}"):
                await use()
        # Whoever fills it to the end, by whatever means, has a log that is used.
        journal = await open_journal(place, tmp_path)
        for sealed in LOG[7:]:
            await journal.append(sealed, Position(sealed.batch.position - 1))
        await journal.close()
        await start()

    tell(story)


class Killed(BaseException):
    """What no rebuild catches."""


def cut_short(take: Any, count: int) -> Any:
    """A rebuild that ends as by a signal, once a journal was given so many batches."""
    given = 0

    async def cut(target: Any, sealed: SealedBatch) -> None:
        nonlocal given
        if given == count:
            raise Killed
        given += 1
        await take(target, sealed)

    return cut
