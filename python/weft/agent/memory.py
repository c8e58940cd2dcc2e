"""The memory a node lends, as the node's shell needs it: a port, and the native server behind it.

Everything that can wait is awaited. The native calls block and release the GIL, so each runs in a thread; a test's
memory does without.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from weft.agent.stock import Stock
from weft.dataplane import Lender, PeerDistance, RdmaRecord


class Memory(Protocol):
    """The extents of one life of a node, listening from its making to its close."""

    @property
    def port(self) -> int:
        """The port it really listens at."""
        ...

    @property
    def rdma(self) -> RdmaRecord | None:
        """What is published of its RDMA; None when it has none."""
        ...

    @property
    def stock(self) -> Stock | None:
        """The objects this node keeps, served by the same engine; None when it keeps none."""
        ...

    async def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        """Backs an extent. Raises NoMemory."""
        ...

    async def raise_generation(self, region_id: str, generation: int) -> None:
        """From now on refuses older grants of the region."""
        ...

    async def release_extent(self, region_id: str, index: int) -> None:
        """Gives an extent back to the machine."""
        ...

    def counters(self) -> Mapping[str, int]:
        """What was served so far."""
        ...

    async def measure(self, host: str, port: int) -> PeerDistance:
        """How far a peer is."""
        ...

    async def close(self) -> None:
        """Stops listening and gives everything back."""
        ...


Listen = Callable[[bytes, int], Awaitable[Memory]]
"""Opens the memory of a new life: (cluster id, incarnation)."""


class NativeMemory:
    """The native server, each waiting call in a thread."""

    def __init__(self, lender: Lender, stock: Stock | None = None, rdma: RdmaRecord | None = None) -> None:
        self._lender = lender
        self._stock = stock
        self._rdma = rdma

    @property
    def port(self) -> int:
        """The port it really listens at."""
        return self._lender.port

    @property
    def rdma(self) -> RdmaRecord | None:
        """What is published of its RDMA, where it has any."""
        return self._rdma

    @property
    def stock(self) -> Stock | None:
        """The objects this node keeps."""
        return self._stock

    async def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        """Backs an extent."""
        await asyncio.to_thread(self._lender.reserve_extent, region_id, index, size_bytes, generation)

    async def raise_generation(self, region_id: str, generation: int) -> None:
        """From now on refuses older grants of the region."""
        await asyncio.to_thread(self._lender.raise_generation, region_id, generation)

    async def release_extent(self, region_id: str, index: int) -> None:
        """Gives an extent back to the machine."""
        await asyncio.to_thread(self._lender.release_extent, region_id, index)

    def counters(self) -> Mapping[str, int]:
        """What was served so far."""
        return self._lender.counters()

    async def measure(self, host: str, port: int) -> PeerDistance:
        """How far a peer is."""
        return await asyncio.to_thread(self._lender.measure, host, port)

    async def close(self) -> None:
        """Stops listening and gives everything back."""
        if self._stock is not None:
            await self._stock.close()
        await asyncio.to_thread(self._lender.close)
