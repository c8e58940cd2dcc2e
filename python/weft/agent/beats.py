"""Beating: saying that the node lives and what it holds, and hearing what it should hold.

A beat waits at the coordinator until there is news, so that news arrives at once and silence costs one small request
every few seconds. When something changes here meanwhile, the waiting beat is dropped and another is sent: whatever the
dropped one would have answered, the next answers too.
"""

import asyncio
from typing import TypeVar

from weft.agent.carrier import Carrier
from weft.agent.engines import Engines
from weft.agent.errands import Word
from weft.agent.holdings import Holdings, WantedExtent
from weft.agent.keeper import Keeper
from weft.agent.memory import Memory
from weft.agent.surveyor import Surveyor
from weft.api.bodies.beat import BeatBody, BeatReply, ExtentReport, Observations, PeerReport
from weft.client.coordinator import Coordinator, addresses, registered
from weft.client.flow import Flow, run_async
from weft.client.ports import AsyncClock, AsyncHttp, Chance
from weft.model.ids import Generation, Incarnation, RegionId, spell_incarnation
from weft.model.policy import ERROR_LENGTH_MAX

T = TypeVar("T")

# How long a beat waits for news. A node counts as silent after ten seconds without one, so two may be lost.
WAIT_MS = 3_000
# While work is under way a waiting beat would be answered at once, with the target that is being carried out already.
_BUSY_S = 1.0


class Asker:
    """Carries flows out with this node's ports."""

    def __init__(self, http: AsyncHttp, clock: AsyncClock, chance: Chance) -> None:
        self._http = http
        self._clock = clock
        self._chance = chance

    async def ask(self, flow: Flow[T]) -> T:
        """The flow's result."""
        return await run_async(flow, self._http, self._clock, self._chance)


class Beats:
    """The beats of one life of a node."""

    def __init__(
        self,
        *,
        node_id: str,
        incarnation: Incarnation,
        lend_bytes: int,
        holdings: Holdings,
        memory: Memory,
        carrier: Carrier,
        surveyor: Surveyor,
        coordinator: Coordinator,
        asker: Asker,
        clock: AsyncClock,
        keeper: Keeper | None = None,
        engines: Engines | None = None,
        wait_ms_max: int = WAIT_MS,
    ) -> None:
        self.draining_told = asyncio.Event()
        self._draining = False
        self._engines = engines
        self._wait_ms_max = wait_ms_max
        self._keeper = keeper
        self._node_id = node_id
        self._incarnation = incarnation
        self._lend_bytes = lend_bytes
        self._holdings = holdings
        self._memory = memory
        self._carrier = carrier
        self._surveyor = surveyor
        self._coordinator = coordinator
        self._asker = asker
        self._clock = clock
        self._endpoints_version: int | None = None

    async def beat(self, wait_ms: int = WAIT_MS) -> BeatReply | None:
        """Beats once and heeds the reply; None when something changed here first. Raises what asking raises."""
        if self._holdings.behind:
            await self._changed_within(_BUSY_S)
        self._carrier.changed.clear()
        word = self._keeper.errands.word() if self._keeper is not None else None
        eager = self._holdings.behind or (self._keeper is not None and self._keeper.errands.is_eager)
        draining = self._draining
        is_urgent = eager or (draining and not self.draining_told.is_set())
        body = self._body(0 if is_urgent else min(wait_ms, self._wait_ms_max), word)
        asked = asyncio.ensure_future(self._asker.ask(self._coordinator.beat(self._node_id, body)))
        changed = asyncio.ensure_future(self._carrier.changed.wait())
        try:
            # A beat that does not wait is answered at once. Dropped for each change of a busy node, none ever would be.
            until = (asked, changed) if body.wait_ms else (asked,)
            await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return None
            reply = asked.result()
        finally:
            changed.cancel()
            asked.cancel()
            # A dropped beat has to be over before the next is sent, or two would race for the same connection.
            await asyncio.wait((asked,))
        if draining:
            self.draining_told.set()
        if self._keeper is not None and word is not None:
            self._keeper.heed(word, reply.store)
        await self._heed(reply)
        return reply

    def drain(self) -> None:
        """From now on say that this node wants nothing new; `draining_told` is set once the coordinator has heard."""
        self._draining = True
        self._carrier.changed.set()

    async def _heed(self, reply: BeatReply) -> None:
        wanted = [
            WantedExtent(
                region_id=RegionId(extent.region_id),
                region=extent.name,
                index=extent.index,
                size_bytes=extent.size_bytes,
                generation=Generation(extent.generation),
            )
            for extent in reply.extents
        ]
        if self._holdings.aim(Generation(reply.generation), wanted):
            self._carrier.wake()
        if reply.endpoints_version != self._endpoints_version:
            listed = await self._asker.ask(self._coordinator.endpoints())
            self._surveyor.learn(addresses(listed, without=self._node_id))
            self._memory.learn(registered(listed))
            self._endpoints_version = reply.endpoints_version

    def _body(self, wait_ms: int, word: Word | None) -> BeatBody:
        return BeatBody(
            incarnation=spell_incarnation(self._incarnation),
            generation=self._holdings.generation,
            wait_ms=wait_ms,
            observations=Observations(
                lend_bytes=self._lend_bytes,
                draining=self._draining,
                pools=self._engines.report(draining=self._draining) if self._engines is not None else None,
                reserved_bytes=self._holdings.reserved_bytes,
                extents=[
                    ExtentReport(region_id=region_id, index=index, state=held.state, error=held.error)
                    for (region_id, index), held in self._holdings.states()
                ],
                peers=self._peers(),
                counters=dict(self._memory.counters()),
                store=self._keeper.report(word) if self._keeper is not None and word is not None else None,
            ),
        )

    def _peers(self) -> list[PeerReport]:
        """How far every peer is, and of those this node moved bytes to or from, by what and how many."""
        ways = {way.name: way for way in self._memory.ways()}
        reports: list[PeerReport] = []
        for peer in self._surveyor.peers.reports():
            way = ways.get(peer.node_id)
            report = PeerReport(
                node_id=peer.node_id,
                transport=peer.transport if way is None else way.transport,
                rtt_us=peer.rtt_us,
                tier=peer.tier,
                moved_bytes={} if way is None else dict(way.moved_bytes),
                reasons=[] if way is None else [reason[:ERROR_LENGTH_MAX] for reason in way.reasons],
            )
            reports.append(report)
        return reports

    async def _changed_within(self, duration_s: float) -> None:
        nap = asyncio.ensure_future(self._clock.sleep(duration_s))
        changed = asyncio.ensure_future(self._carrier.changed.wait())
        try:
            await asyncio.wait((nap, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            changed.cancel()
