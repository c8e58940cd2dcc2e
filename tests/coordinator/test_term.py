"""Terms, with a clock that stands still: who may take the pen, and when."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.worlds import CountingRandom, FakeClock, node
from weft.coordinator.repeats import Cause
from weft.coordinator.term import Terms
from weft.coordinator.writer import Writer, internal_cause
from weft.ledger import MemoryJournal
from weft.model.commands import FoundCluster
from weft.model.errors import JournalFailed, NotTheWriter
from weft.model.ids import Position, RequestId
from weft.telemetry import Log, Metrics

LEASE_MS = 5_000


class Silent(MemoryJournal):
    """A journal that others share, waits for nobody, and can be out of reach for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False

    async def wait(self, after: Position, ms_max: int) -> None:
        self._check()

    async def last_pulse(self) -> bytes:
        self._check()
        return await super().last_pulse()

    def _check(self) -> None:
        if self.is_down:
            raise JournalFailed("out of reach")


class One:
    """One coordinator's writer and terms."""

    def __init__(self, name: str, journal: MemoryJournal) -> None:
        self.clock, metrics = FakeClock(), Metrics()
        log = Log(io.StringIO(), self.clock.now_ms)
        self.writer = Writer(journal, self.clock, CountingRandom(), frozenset, log, metrics)
        self.begun = self.followed = 0
        self.terms = Terms(
            self.writer,
            journal,
            self.clock,
            log,
            metrics,
            name=name,
            address=f"http://{name}",
            on_begun=self._on_begun,
            on_followed=self._on_followed,
            lease_ms=LEASE_MS,
        )
        self.running: asyncio.Task[None] | None = None

    def _on_begun(self) -> None:
        self.begun += 1

    def _on_followed(self) -> None:
        self.followed += 1

    async def look(self, ms: int = 0) -> None:
        """Let time pass for this one, and have it look once."""
        self.clock.advance(ms)
        if self.writer.reigns:
            await self.terms._reign_on()
        else:
            await self.terms._follow_on()

    async def write(self) -> None:
        """Have a command decided and committed."""
        waiting = asyncio.ensure_future(self.writer.submit(FoundCluster(name="c", nodes=()), internal_cause("test")))
        await asyncio.sleep(0)
        running = asyncio.ensure_future(self.writer.run())
        try:
            await asyncio.wait_for(waiting, 5)
        finally:
            running.cancel()


def tell(story: Callable[[MemoryJournal], Awaitable[None]], monkeypatch: Any) -> None:
    async def nobody_sleeps(_: float) -> None:
        return

    monkeypatch.setattr("weft.coordinator.term.asyncio.sleep", nobody_sleeps)
    asyncio.run(story(Silent()))


async def pair(journal: MemoryJournal) -> tuple[One, One]:
    """A writer that has pulsed once, and one that follows and has seen it."""
    first, second = One("first", journal), One("second", journal)
    await first.terms.start()
    await first.look()
    await second.terms.start()
    return first, second


def test_the_first_on_an_empty_journal_writes_and_the_second_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        assert (first.writer.reigns, second.writer.reigns) == (True, False)
        with pytest.raises(NotTheWriter, match="http://first") as refusal:
            await second.writer.submit(node("n"), Cause(RequestId("r")))
        assert refusal.value.writer == "http://first"

    tell(story, monkeypatch)


def test_a_writer_that_pulses_and_writes_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        for _ in range(20):
            await first.look(1_000)
            await second.look(1_000)
        assert not second.writer.reigns
        assert await journal.tail() == 1

    tell(story, monkeypatch)


def test_a_silence_of_a_lease_is_the_end_of_a_term_and_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        await second.look(LEASE_MS - 1)
        assert not second.writer.reigns
        await second.look(1)
        assert second.writer.reigns
        assert (second.begun, second.writer.term) == (1, 2)
        assert first.writer.reigns, "it does not know yet"
        first.clock.advance(LEASE_MS)
        with pytest.raises(NotTheWriter, match="http://second"):
            await first.write()
        assert not first.writer.reigns

    tell(story, monkeypatch)


def test_a_batch_is_a_sign_of_life_as_a_pulse_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        await second.look(LEASE_MS - 1)
        await first.write()
        await second.look(1)
        assert not second.writer.reigns
        assert second.writer.state.cluster is not None
        await second.look(LEASE_MS)
        assert second.writer.reigns

    tell(story, monkeypatch)


def test_who_was_stopped_looks_again_before_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        await first.look(1_000)
        await second.look(3_600_000)
        assert not second.writer.reigns, "the writer has pulsed since, whatever the time is"

    tell(story, monkeypatch)


def test_who_sees_nothing_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        assert isinstance(journal, Silent)
        _, second = await pair(journal)
        journal.is_down = True
        for _ in range(10):
            await second.look(LEASE_MS)
        journal.is_down = False
        await second.look(LEASE_MS)
        assert not second.writer.reigns, "a whole lease begins with the first look that saw something"
        await second.look(LEASE_MS)
        assert second.writer.reigns

    tell(story, monkeypatch)


def test_of_two_that_take_over_at_once_one_wins_and_the_other_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        _, second = await pair(journal)
        third = One("third", journal)
        await third.terms.start()
        for each in (second, third):
            each.clock.advance(LEASE_MS)
        await asyncio.gather(second.look(), third.look())
        assert sorted([second.writer.reigns, third.writer.reigns]) == [False, True]
        assert await journal.tail() == 2
        follower = third if second.writer.reigns else second
        for _ in range(3):
            await (second if follower is third else third).look(1_000)
            await follower.look(1_000)
        assert not follower.writer.reigns

    tell(story, monkeypatch)


def test_a_term_that_was_ended_in_order_is_followed_at_once_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        third = One("third", journal)
        await third.terms.start()
        await first.terms.leave()
        await second.look()
        assert second.writer.reigns
        await third.look()
        await third.look()
        assert not third.writer.reigns, "the first one's last word is about an earlier term"

    tell(story, monkeypatch)


def test_a_deposed_writer_learns_of_it_from_the_pulse_and_does_not_cover_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(journal: MemoryJournal) -> None:
        first, second = await pair(journal)
        await second.look(LEASE_MS)
        await second.look()
        await first.look()
        assert first.writer._doubted
        running = asyncio.ensure_future(first.writer.run())
        for _ in range(5):
            await asyncio.wait({running}, timeout=0.001)
        running.cancel()
        assert not first.writer.reigns
        await first.look()
        assert first.followed == 1

    tell(story, monkeypatch)
