"""The double of a machine's memory: it keeps what the native server keeps of extents, and no bytes.

It follows `rust/transport/src/store.rs`: an extent that is there already is reserved at once; the first extent of a
region sets the gate's generation, later ones leave it; raising takes the larger of two, and is nothing where no extent
of the region is; releasing the last extent of a region forgets the gate. It checks real grants.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from weft.agent.stock import Stock
from weft.dataplane import PeerDistance, RdmaRecord, Registered, WayReport
from weft.model.errors import Busy, Closed, ExtentLost, NoMemory, StaleGeneration, Unreachable
from weft.model.grant import Grant, grant_key, verify
from weft.testing.clock import ProcessClock
from weft.testing.faults import Fault

_STALL_S: Final = 100.0
"""Longer than a region may take to be backed: a machine that swaps itself to death."""


class Served(NamedTuple):
    """A request that was let in."""

    region_id: str
    extent: int
    generation: int


class LenderDouble:
    """The memory of one life of a node. Without a source of chance, everything is done at once."""

    def __init__(
        self,
        port: int,
        *,
        room_bytes: int = 1 << 50,
        secret: bytes = b"",
        clock: ProcessClock | None = None,
        chance: random.Random | None = None,
        measure: Callable[[str, int], bool] = lambda _host, _port: True,
        stock: Stock | None = None,
    ) -> None:
        self.held: dict[tuple[str, int], int] = {}
        self.gates: dict[str, int] = {}
        self.served: list[Served] = []
        self.stock = stock
        self.steps = 0
        self.closed = False
        self.full = Fault(chance)
        self.fence_fails = Fault(chance)
        self.stalls = Fault(chance)
        self.room_bytes = room_bytes
        self._port = port
        self._key = grant_key(secret)
        self._clock = clock
        self._random = chance
        self._reaches = measure

    @property
    def port(self) -> int:
        """The port it listens at."""
        return self._port

    @property
    def rdma(self) -> RdmaRecord | None:
        """Memory that is only counted is reached by nobody's queue pair."""
        return None

    @property
    def held_bytes(self) -> int:
        """How much is backed."""
        return sum(self.held.values())

    async def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        """Backs an extent. Raises NoMemory."""
        # A gigabyte a second or so; a machine that swaps takes much longer.
        await self._take_s(size_bytes / 2e9 + 0.001, slow=0.05, slow_s=5.0)
        if self.stalls.strikes():
            await asyncio.sleep(_STALL_S)
        self._check_open()
        self.steps += 1
        there = self.held.get((region_id, index))
        if there is not None:
            if there != size_bytes:
                raise Busy(f"extent {index} of region {region_id} is reserved with another size")
            return
        if self.full.strikes() or self.held_bytes + size_bytes > self.room_bytes:
            raise NoMemory("the machine has no memory left")
        self.held[region_id, index] = size_bytes
        self.gates.setdefault(region_id, generation)

    async def raise_generation(self, region_id: str, generation: int) -> None:
        """From now on refuses older grants of the region."""
        await self._take_s(0.0005, slow=0.1, slow_s=1.0)
        self._check_open()
        self.steps += 1
        if region_id in self.gates:
            self.gates[region_id] = max(self.gates[region_id], generation)
        if self.fence_fails.strikes():
            raise Busy("requests under older grants are not through yet")

    async def release_extent(self, region_id: str, index: int) -> None:
        """Gives an extent back to the machine."""
        await self._take_s(0.0005, slow=0.01, slow_s=0.5)
        self._check_open()
        self.steps += 1
        self.held.pop((region_id, index), None)
        if not any(held == region_id for held, _ in self.held):
            self.gates.pop(region_id, None)

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What every node registered: there is nothing here to choose among."""

    def ways(self) -> Sequence[WayReport]:
        """No bytes move."""
        return ()

    @property
    def looks_for_rdma(self) -> bool:
        """There is no device."""
        return False

    async def find_rdma(self) -> tuple[RdmaRecord | None, str]:
        """What was published stays."""
        return self.rdma, ""

    def counters(self) -> Mapping[str, int]:
        """What was served so far."""
        return {"requests_served": len(self.served)}

    async def measure(self, host: str, port: int) -> PeerDistance:
        """How far a peer is."""
        await self._take_s(0.001, slow=0.0, slow_s=0.0)
        self._check_open()
        if not self._reaches(host, port):
            raise Unreachable(f"{host}:{port} does not answer")
        return PeerDistance(rtt_us=80.0, tier="fast")

    async def close(self) -> None:
        """Stops listening and gives everything back."""
        self.closed = True
        self.held.clear()
        self.gates.clear()

    def access(self, sealed_grant: bytes, index: int) -> Grant:
        """A peer reads or writes. Raises what the native server answers to a grant or an extent that is no good."""
        self._check_open()
        assert self._clock is not None, "grants expire by a clock"
        grant = verify(sealed_grant, self._key, self._clock.now_ms())
        if (grant.region_id, index) not in self.held:
            raise ExtentLost(f"extent {index} of region {grant.region_id} is not here")
        if grant.generation < self.gates[grant.region_id]:
            raise StaleGeneration(f"generation {grant.generation} is older than {self.gates[grant.region_id]}")
        self.served.append(Served(grant.region_id, index, grant.generation))
        return grant

    async def _take_s(self, duration_s: float, *, slow: float, slow_s: float) -> None:
        if self._random is None:
            return
        if self._random.random() < slow:
            duration_s += self._random.random() * slow_s
        await asyncio.sleep(duration_s)

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the server has stopped")
