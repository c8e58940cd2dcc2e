"""Measuring the way to the peers, one at a time, and saying so where it is slow."""

import asyncio
from collections.abc import Sequence

from weft.agent.memory import Memory
from weft.agent.outlet import Outlet
from weft.agent.peers import PeerAddress, Peers
from weft.client.ports import AsyncClock
from weft.model.errors import WeftError
from weft.model.ids import NodeId


class Surveyor:
    """The peers of one life of a node, measured as they are due."""

    def __init__(self, memory: Memory, *, clock: AsyncClock, outlet: Outlet) -> None:
        self.peers = Peers()
        self._memory = memory
        self._clock = clock
        self._outlet = outlet
        self._learned = asyncio.Event()

    def learn(self, addresses: Sequence[tuple[str, str, int]]) -> None:
        """The peers as they are now."""
        listed = [
            PeerAddress(node_id=NodeId(node_id), transport="tcp", host=host, port=port)
            for node_id, host, port in addresses
        ]
        if self.peers.learn(listed):
            self._learned.set()

    async def keep_measuring(self) -> None:
        """For as long as the life lasts."""
        while True:
            peer = self.peers.next_due(self._clock.now_s())
            if peer is None:
                await self._until_due()
                continue
            try:
                distance = await self._memory.measure(peer.host, peer.port)
            except WeftError:
                # A peer that cannot be reached is the coordinator's to notice; whoever faults on it says why.
                self.peers.missed(peer, self._clock.now_s())
                continue
            warning = self.peers.measured(peer, distance.rtt_us, distance.tier, self._clock.now_s())
            if warning is not None:
                self._outlet.remark(warning)

    async def _until_due(self) -> None:
        self._learned.clear()
        nap = asyncio.ensure_future(self._clock.sleep(self.peers.wait_s(self._clock.now_s())))
        news = asyncio.ensure_future(self._learned.wait())
        try:
            await asyncio.wait((nap, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            news.cancel()
