"""Those who come together are written together, and nobody who comes alone is kept."""

import asyncio
from collections.abc import Sequence

from tests.worlds import coordinator_door, seed_node
from weft.coordinator.crowd import Crowd
from weft.ledger import MemoryJournal
from weft.model.batch import SealedBatch
from weft.model.ids import Position
from weft.testing import SimulatedLoop


class SlowJournal(MemoryJournal):
    """A journal on a disk that takes three milliseconds for a sync."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        await asyncio.sleep(0.003)
        await super().append(sealed, expected_position)
        self.counts.append(len(sealed.batch.entries))


def waited_s(crowd: Crowd, here_count: int, arrivals: Sequence[tuple[float, int]] = ()) -> float:
    """How long a batch waits, of which so many are here, when more are there at these times."""

    async def story() -> float:
        loop = asyncio.get_running_loop()
        for after_s, count in arrivals:
            loop.call_later(after_s, crowd.see, count)
        began_s = loop.time()
        await crowd.gather(here_count)
        return loop.time() - began_s

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return round(runner.run(story()), 6)


def crowd_of(count: int, write_s: float) -> Crowd:
    crowd = Crowd(gather_ms_max=4)
    crowd.note(count, write_s)
    return crowd


def test_who_comes_alone_and_came_alone_before_is_not_kept() -> None:
    assert waited_s(Crowd(), 1) == 0
    assert waited_s(crowd_of(1, 0.003), 1) == 0


def test_the_first_of_a_crowd_waits_until_all_of_it_is_there() -> None:
    assert waited_s(crowd_of(32, 0.003), 1, [(0.001, 31), (0.0015, 32)]) == 0.0015


def test_nobody_waits_for_longer_than_the_last_batch_took_nor_than_the_bound() -> None:
    assert waited_s(crowd_of(32, 0.0002), 1) == 0.0002
    assert waited_s(crowd_of(32, 8.0), 1) == 0.004


def test_a_crowd_that_has_gone_is_forgotten_by_a_quarter_each_time() -> None:
    crowd = crowd_of(32, 0.003)
    waits = []
    for _ in range(12):
        waits.append(waited_s(crowd, 1))
        crowd.note(1, 0.003)
    assert waits[0] == 0.003
    assert waits[-1] == 0


def test_a_writer_that_stops_keeps_nobody() -> None:
    crowd = crowd_of(32, 0.003)

    async def story() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, crowd.disperse)
        await crowd.gather(1)
        return loop.time()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        assert round(runner.run(story()), 6) == 0.001


def test_callers_that_are_answered_together_share_their_next_sync_too() -> None:
    journal, callers, rounds = SlowJournal(), 16, 10

    async def story() -> None:
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})

            async def call(number: int) -> None:
                for turn in range(rounds):
                    await door.ok("POST", "/nodes", seed_node(number * rounds + turn))
                    # The way to a caller and back: no two of them are the same.
                    await asyncio.sleep(0.0001 * (1 + number % 7))

            await asyncio.gather(*(call(number) for number in range(callers)))

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(story())
    assert sum(journal.counts[2:]) == callers * rounds
    assert len(journal.counts[2:]) <= rounds + 3, journal.counts
