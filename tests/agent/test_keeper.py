"""The keeper: copies from whoever gives, looks again where somebody doubts, scrubs, and says what it found."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.agent.world import until
from weft.agent.errands import Finding, WantedCopy
from weft.agent.keeper import Keeper
from weft.agent.outlet import Outlet
from weft.agent.stock import Pace, no_pace
from weft.api.bodies.beat import CopyOrder, StoreTarget
from weft.client.ports import AsyncSystemClock
from weft.model.errors import Disconnected, ObjectCorrupt, ObjectNotFound, StoreFull, StoreUnreadable, WeftError
from weft.model.ids import NodeId
from weft.model.object import ObjectHash

ONE, TWO = ObjectHash("1" * 64), ObjectHash("2" * 64)


class FakeStock:
    """Objects without bytes. `refusals` are what sources answer with; what is in `spoilt` is not what it should be."""

    def __init__(self, *held: ObjectHash) -> None:
        self.held = dict.fromkeys(held, 10)
        self.spoilt: set[ObjectHash] = set()
        self.unreadable: set[ObjectHash] = set()
        self.refusals: dict[NodeId, WeftError] = {}
        self.asked: list[NodeId] = []
        self.checked: list[ObjectHash] = []
        self.found: Callable[[Finding], None] = lambda finding: None

    @property
    def used_bytes(self) -> int:
        return 10 * len(self.held)

    @property
    def free_bytes(self) -> int:
        return 1_000

    def hashes(self) -> list[ObjectHash]:
        return list(self.held)

    def size_of(self, object_hash: ObjectHash) -> int | None:
        return self.held.get(object_hash)

    def listen(self, found: Callable[[Finding], None]) -> None:
        self.found = found

    async def fetch(self, copy: WantedCopy, source: NodeId, host: str, port: int) -> None:
        self.asked.append(source)
        if source in self.refusals:
            raise self.refusals[source]
        self.held[copy.object_hash] = copy.size_bytes

    async def check(self, object_hash: ObjectHash, pace: Pace = no_pace) -> None:
        self.checked.append(object_hash)
        await pace(10)
        if object_hash not in self.held:
            raise ObjectNotFound("not here", hash=object_hash)
        if object_hash in self.unreadable:
            raise StoreUnreadable("too many open files", path="", reason="EMFILE")
        if object_hash in self.spoilt:
            del self.held[object_hash]
            raise ObjectCorrupt("not what it should be", hash=object_hash)

    async def drop(self, object_hash: ObjectHash) -> None:
        self.held.pop(object_hash, None)

    async def close(self) -> None:
        pass


class Kept:
    """A keeper at work, and what it says."""

    def __init__(self, stock: FakeStock) -> None:
        self.stock = stock
        self.remarks: list[str] = []
        self.changed = asyncio.Event()
        self.generation = 0
        self.keeper = Keeper(
            stock,
            changed=self.changed.set,
            address_of=lambda node_id: None if node_id == "nowhere" else (str(node_id), 1),
            clock=AsyncSystemClock(),
            outlet=Outlet(announce=self.remarks.append, remark=self.remarks.append),
            scrub_bytes_per_s=1 << 30,
            scrub_every_ms=1,
        )

    def plan(self, *sources: str, drops: tuple[str, ...] = (), checks: tuple[str, ...] = ()) -> None:
        """A reply that asks for these; a copy of object one when there are sources for it."""
        self.generation += 1
        copies = [CopyOrder(hash=ONE, size_bytes=10, sources=list(sources))] if sources else []
        target = StoreTarget(plan=self.generation, inventory=0, copies=copies, drops=list(drops), checks=list(checks))
        self.keeper.heed(self.keeper.errands.word(), target)

    async def said(self) -> list[Finding]:
        """What is reported next."""
        async with asyncio.timeout(10):
            while not (findings := self.keeper.errands.word().findings):
                self.changed.clear()
                await self.changed.wait()
        return list(findings)


def run(stock: FakeStock, story: Callable[[Kept], Awaitable[None]], *, scrub: bool = False) -> None:
    async def tell() -> None:
        kept = Kept(stock)
        work = asyncio.ensure_future(kept.keeper.keep_scrubbing() if scrub else kept.keeper.keep_errands())
        try:
            await story(kept)
            assert not work.done()
        finally:
            work.cancel()
            await asyncio.wait({work})

    asyncio.run(tell())


def test_an_object_is_fetched_from_the_first_source_that_gives_it() -> None:
    stock = FakeStock()
    stock.refusals = {NodeId("a"): Disconnected("gone")}

    async def story(kept: Kept) -> None:
        kept.plan("nowhere", "a", "b", "c")
        assert await kept.said() == [Finding(object_hash=ONE, state="held")]
        assert stock.asked == ["a", "b"]

    run(stock, story)


def test_a_source_that_lies_is_named_and_the_next_one_asked() -> None:
    stock = FakeStock()
    stock.refusals = {NodeId("a"): ObjectCorrupt("a sent other bytes"), NodeId("b"): ObjectNotFound("b has none")}

    async def story(kept: Kept) -> None:
        kept.plan("a", "b", "c")
        assert await kept.said() == [
            Finding(object_hash=ONE, state="held", doubted=(NodeId("a"), NodeId("b"))),
        ]

    run(stock, story)


def test_a_copy_nobody_gives_is_reported_with_every_reason() -> None:
    stock = FakeStock()
    stock.refusals = {NodeId("a"): Disconnected("a is gone"), NodeId("b"): ObjectCorrupt("b lies")}

    async def story(kept: Kept) -> None:
        kept.plan("a", "b")
        (finding,) = await kept.said()
        assert (finding.state, finding.doubted) == ("failed", ("b",))
        assert finding.error == "a: a is gone; b: b lies"
        assert kept.keeper.errands.next_again_s(0.0) is not None

    run(stock, story)


def test_a_full_disk_is_not_the_sources_fault() -> None:
    stock = FakeStock()
    stock.refusals = {NodeId("a"): StoreFull("the disk is full")}

    async def story(kept: Kept) -> None:
        kept.plan("a", "b")
        (finding,) = await kept.said()
        assert (finding.state, finding.error, stock.asked) == ("failed", "the disk is full", ["a"])

    run(stock, story)


def test_what_is_one_too_many_is_let_go_of_and_said() -> None:
    async def story(kept: Kept) -> None:
        kept.plan(drops=(ONE,))
        assert await kept.said() == [Finding(object_hash=ONE, state="dropped")]
        assert kept.stock.hashes() == [TWO]

    run(FakeStock(ONE, TWO), story)


def test_what_somebody_doubts_is_looked_at() -> None:
    stock = FakeStock(ONE, TWO)
    stock.spoilt.add(TWO)

    async def story(kept: Kept) -> None:
        kept.plan(checks=(ONE, TWO, "3" * 64))
        while len(found := await kept.said()) < 3:
            kept.changed.clear()
            await kept.changed.wait()
        assert [finding.state for finding in found] == ["held", "corrupt", "missing"]

    run(stock, story)


def test_scrubbing_goes_round_and_round_and_reports_what_is_not_what_it_should_be() -> None:
    stock = FakeStock(ONE, TWO)

    async def story(kept: Kept) -> None:
        await until(lambda: stock.checked.count(ONE) >= 3)
        assert not kept.keeper.errands.is_eager
        stock.spoilt.add(TWO)
        (finding,) = await kept.said()
        assert (finding.object_hash, finding.state) == (TWO, "corrupt")
        assert any("is corrupt" in line for line in kept.remarks)

    run(stock, story, scrub=True)


def test_scrubbing_reads_no_faster_than_its_rate_and_rests_between_two_rounds() -> None:
    slept: list[float] = []

    class Recording(AsyncSystemClock):
        async def sleep(self, duration_s: float) -> None:
            slept.append(duration_s)
            await asyncio.sleep(0)

    async def tell() -> None:
        keeper = Keeper(
            FakeStock(ONE, TWO),
            changed=lambda: None,
            address_of=lambda node_id: None,
            clock=Recording(),
            outlet=Outlet(announce=[].append, remark=[].append),
            scrub_bytes_per_s=100,
            scrub_every_ms=7_000,
        )
        work = asyncio.ensure_future(keeper.keep_scrubbing())
        await until(lambda: len(slept) >= 6)
        work.cancel()
        await asyncio.wait({work})

    asyncio.run(tell())
    assert slept[:6] == [0.1, 0.1, 7.0] * 2, "ten bytes at a hundred a second, twice, and then the pause"


def test_what_cannot_be_read_just_now_is_neither_corrupt_nor_missing_and_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weft.agent.keeper.COPY_AGAIN_MS", 5)
    stock = FakeStock(ONE, TWO)
    stock.unreadable.add(ONE)

    async def asked(kept: Kept) -> None:
        kept.plan(checks=(ONE, TWO))
        await until(lambda: stock.checked.count(ONE) >= 3)
        assert [finding.object_hash for finding in await kept.said()] == [TWO]
        stock.unreadable.clear()
        await until(lambda: len(kept.keeper.errands.word().findings) == 2)
        assert {finding.state for finding in await kept.said()} == {"held"}

    async def scrubbed(kept: Kept) -> None:
        await until(lambda: stock.checked.count(ONE) >= 3 and stock.checked.count(TWO) >= 3)
        assert not kept.keeper.errands.is_eager
        assert any("too many open files" in line for line in kept.remarks)

    run(stock, asked)
    stock.unreadable.add(ONE)
    stock.checked.clear()
    run(stock, scrubbed, scrub=True)
    assert stock.hashes() == [ONE, TWO]


def test_a_source_that_cannot_read_its_copy_is_passed_over_and_not_doubted() -> None:
    stock = FakeStock()
    stock.refusals = {NodeId("a"): StoreUnreadable("too many open files", path="", reason="EMFILE")}

    async def story(kept: Kept) -> None:
        kept.plan("a", "b")
        (finding,) = await kept.said()
        assert (finding.state, finding.doubted, stock.asked) == ("held", (), ["a", "b"])

    run(stock, story)


def test_what_peers_bring_is_reported() -> None:
    async def story(kept: Kept) -> None:
        kept.stock.found(Finding(object_hash=ONE, state="held"))
        assert await kept.said() == [Finding(object_hash=ONE, state="held")]

    run(FakeStock(), story)


def test_a_new_inventory_number_has_everything_told_once() -> None:
    async def story(kept: Kept) -> None:
        word = kept.keeper.errands.word()
        kept.keeper.heed(word, StoreTarget(plan=1, inventory=7))
        report = kept.keeper.report(kept.keeper.errands.word())
        assert (report.inventory, report.complete, len(report.findings)) == (7, True, 2)
        kept.keeper.heed(kept.keeper.errands.word(), StoreTarget(plan=1, inventory=7))
        assert kept.keeper.errands.word().findings == ()

    run(FakeStock(ONE, TWO), story)
