"""Who takes over on a shared journal knows how far the primary holds the log, though the primary has forgotten it."""

import asyncio
from pathlib import Path

import pytest

from tests.ledger.lab import Lab, live
from weft.coordinator.homenote import HomeNote
from weft.ledger.layers import MemoryLayer
from weft.model.availability import Role, Standing
from weft.model.errors import JournalFailed
from weft.model.ids import Position
from weft.model.policy import HOME_NOTE_MS, SHIPPED_NOTE_BATCHES
from weft.telemetry import Log

P, S = Role.PRIMARY, Role.SECONDARY
COUNT = 2 * SHIPPED_NOTE_BATCHES


def prune(layer: MemoryLayer) -> int:
    """Have a layer forget all it has, as a chain does after a week; says how much that was."""
    layer._heights.clear()
    layer._blobs[:] = [(commitment, b"pruned") for commitment, _ in layer._blobs]
    return len(layer._blobs)


async def first_life(lab: Lab, directory: Path, *, says_so: bool = True) -> int:
    """A machine writes, has time to leave word, and is lost; says how many blobs the primary was given and forgot."""
    lab.directory = directory / "first"
    lab.directory.mkdir()
    await lab.serve()
    await lab.found()
    for number in range(COUNT):
        await lab.register(number)
    if says_so:
        await asyncio.sleep(HOME_NOTE_MS / 1_000 + 1.0)
    await lab.kill()
    lab.directory = directory / "second"
    lab.directory.mkdir()
    return prune(lab.primary)


async def second_life(lab: Lab) -> None:
    """Another machine takes over, and writes once."""
    await lab.serve()
    await lab.coordinator._reigning.wait()
    await lab.register(COUNT + 1)


def test_a_takeover_with_an_empty_archive_puts_nothing_again_that_the_chain_has_pruned(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        pruned_count = await first_life(lab, tmp_path)
        assert pruned_count > COUNT
        await second_life(lab)
        assert len(lab.kept(P)) == pruned_count + 2, "the new term and one write"
        assert lab.availability.shipper.shipped == await lab.journal.tail()

    live(story, roles=[P], is_shared=True)


def test_a_writer_that_stops_in_order_leaves_word_of_its_last_batch(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.directory = tmp_path
        await lab.serve()
        await lab.found()
        await lab.register(0)
        tail = await lab.journal.tail()
        await lab.coordinator.stop()
        lab.coordinator = None  # type: ignore[assignment]
        lab.availability = None  # type: ignore[assignment]
        assert await HomeNote(lab.journal, "memory", Log(lab.log, lab.clock.now_ms)).read() == tail

    live(story, roles=[P], is_shared=True)


def test_what_only_a_fallback_keeps_is_not_said_to_be_home(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.directory = tmp_path
        await lab.serve()
        await lab.found()
        home = await lab.journal.tail()
        lab.primary.is_down = True
        await lab.availability.board.until(lambda now: now.standing is Standing.DEGRADED)
        for number in range(5):
            await lab.register(number)
        await asyncio.sleep(HOME_NOTE_MS / 1_000 + 1.0)
        note = HomeNote(lab.journal, "memory", Log(lab.log, lab.clock.now_ms))
        assert await note.read() == home
        lab.primary.is_down = False
        await lab.availability.board.until(lambda now: now.standing is Standing.HEALTHY)
        await asyncio.sleep(HOME_NOTE_MS / 1_000 + 1.0)
        assert await note.read() == await lab.journal.tail()

    live(story, roles=[P, S], is_shared=True)


def test_what_a_fallback_took_for_a_writer_that_was_lost_is_put_home_by_the_next_one(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.directory = tmp_path / "first"
        lab.directory.mkdir()
        await lab.serve()
        await lab.found()
        await asyncio.sleep(HOME_NOTE_MS / 1_000 + 1.0)
        home = len(lab.kept(P))
        lab.primary.is_down = True
        await lab.availability.board.until(lambda now: now.standing is Standing.DEGRADED)
        for number in range(5):
            await lab.register(number)
        await asyncio.sleep(HOME_NOTE_MS / 1_000 + 1.0)
        await lab.kill()
        lab.primary.is_down = False
        lab.directory = tmp_path / "second"
        lab.directory.mkdir()
        await second_life(lab)
        assert len(lab.kept(P)) == await lab.journal.tail() > home + 5
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))

    live(story, roles=[P, S], is_shared=True)


def test_a_note_of_another_log_or_another_layer_is_passed_over(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.directory = tmp_path
        await lab.serve()
        await lab.found()
        log, tail = Log(lab.log, lab.clock.now_ms), await lab.journal.tail()
        await HomeNote(lab.journal, "memory", log).leave(tail)
        assert await HomeNote(lab.journal, "memory", log).read() == tail
        assert await HomeNote(lab.journal, "celestia", log).read() == 0
        await lab.journal.note((await lab.journal.last_note()).replace(lab.journal._rows[-1].digest, bytes(32)))
        assert await HomeNote(lab.journal, "memory", log).read() == 0
        await lab.journal.note(b"what is this")
        assert await HomeNote(lab.journal, "memory", log).read() == 0

    live(story, roles=[P], is_shared=True)


def test_a_journal_that_does_not_answer_costs_a_look_and_no_start(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        pruned_count = await first_life(lab, tmp_path)

        async def fails() -> bytes:
            raise JournalFailed("out of reach")

        lab.journal.last_note = fails  # type: ignore[method-assign]
        await second_life(lab)
        assert len(lab.kept(P)) > pruned_count + 2, "it was put again, and nothing was lost"
        assert lab.availability.shipper.shipped == Position(await lab.journal.tail())

    live(story, roles=[P], is_shared=True)


@pytest.mark.parametrize("is_down", [False, True])
def test_without_word_everything_is_looked_for_and_put_where_it_is_not(tmp_path: Path, is_down: bool) -> None:
    async def story(lab: Lab) -> None:
        pruned_count = await first_life(lab, tmp_path, says_so=False)
        assert await lab.journal.last_note() == b""
        lab.primary.is_down = is_down
        await lab.serve()
        lab.primary.is_down = False
        await lab.coordinator._reigning.wait()
        await lab.availability.board.until(lambda now: now.unshipped == 0)
        await lab.register(COUNT + 1)
        assert len(lab.kept(P)) == pruned_count + await lab.journal.tail()

    live(story, roles=[P], is_shared=True)
