"""The memory a node lends, as the node's shell needs it: a port, and the native server behind it.

Everything that can wait is awaited. The native calls block and release the GIL, so each runs in a thread; a test's
memory does without.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from weft.agent.stock import Stock
from weft.dataplane import Lender, PeerDistance, RdmaRecord, Registered, WayReport, prepare_rdma
from weft.dataplane.rdma import OFF
from weft.model.errors import NotSupported
from weft.model.policy import RDMA_LOOK_MS, WAYS_LOOK_MS


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

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What every node registered."""
        ...

    def ways(self) -> Sequence[WayReport]:
        """How the nodes are reached that this one has to do with."""
        ...

    @property
    def looks_for_rdma(self) -> bool:
        """Whether a device may come or go, so that `find_rdma` is worth asking."""
        ...

    async def find_rdma(self) -> tuple[RdmaRecord | None, str]:
        """What is to be published of its RDMA now, and what happened to the device, if anything did."""
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

    def __init__(
        self, lender: Lender, stock: Stock | None = None, rdma: RdmaRecord | None = None, *, rdma_choice: str = OFF
    ) -> None:
        self._lender = lender
        self._stock = stock
        self._rdma = rdma
        self._rdma_choice = rdma_choice
        self._looks = 0

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

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What every node registered."""
        self._lender.learn(records)

    def ways(self) -> Sequence[WayReport]:
        """How the nodes are reached that this one has to do with."""
        return self._lender.ways()

    @property
    def looks_for_rdma(self) -> bool:
        """Whether a device may come or go."""
        return self._rdma_choice != OFF

    async def find_rdma(self) -> tuple[RdmaRecord | None, str]:
        """The device as it is now: given up where it is lost, taken into use where there is one again."""
        return await asyncio.to_thread(self._find_rdma)

    def _find_rdma(self) -> tuple[RdmaRecord | None, str]:
        self._lender.tend()
        if (trouble := self._lender.rdma_trouble) is not None:
            self._lender.drop_rdma()
            self._rdma = None
            return None, f"memory is lent over TCP alone from now on: {trouble}"
        self._looks += 1
        if self._rdma is not None or self._looks % max(1, RDMA_LOOK_MS // WAYS_LOOK_MS):
            return self._rdma, ""
        with contextlib.suppress(NotSupported):
            if prepare_rdma(self._rdma_choice).device is not None:
                self._rdma = self._lender.lend_rdma()
        return self._rdma, "memory is lent over RDMA too from now on" if self._rdma is not None else ""

    async def measure(self, host: str, port: int) -> PeerDistance:
        """How far a peer is."""
        return await asyncio.to_thread(self._lender.measure, host, port)

    async def close(self) -> None:
        """Stops listening and gives everything back."""
        if self._stock is not None:
            await self._stock.close()
        await asyncio.to_thread(self._lender.close)
