"""The lender's own last word: it never backs more than it was started to lend."""

import asyncio

from tests.agent.world import MIB, FakeMemory, until
from weft.agent.carrier import Carrier
from weft.agent.holdings import Holdings, WantedExtent
from weft.agent.outlet import Outlet
from weft.client.ports import AsyncSystemClock
from weft.model.ids import Generation, RegionId


def test_an_extent_beyond_what_is_lent_is_refused_with_the_numbers() -> None:
    async def story() -> None:
        remarks: list[str] = []
        holdings, memory = Holdings(), FakeMemory(50051)
        outlet = Outlet(announce=remarks.append, remark=remarks.append)
        carrier = Carrier(holdings, memory, lend_bytes=4 * MIB, clock=AsyncSystemClock(), outlet=outlet)
        lane = asyncio.ensure_future(carrier.keep_reservations())
        wanted = WantedExtent(
            region_id=RegionId("r0000000000000001"),
            region="scratch",
            index=0,
            size_bytes=32 * MIB,
            generation=Generation(1),
        )
        holdings.aim(Generation(1), [wanted])
        carrier.wake()

        await until(lambda: bool(holdings.states()))
        lane.cancel()

        [(_, held)] = holdings.states()
        assert held.error == "32.0 MiB is more than the 4.0 MiB this node still lends of 4.0 MiB"
        assert remarks == [f"cannot hold extent 0 of scratch: {held.error}"]
        assert memory.held == {}

    asyncio.run(story())
