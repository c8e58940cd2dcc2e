"""A cluster in one event loop: the real coordinator, called in process, and nodes that lend imaginary memory."""

import asyncio
import contextlib
import io
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from weft.agent.cloud import CloudSettings
from weft.agent.memory import Memory
from weft.agent.node import Node
from weft.agent.outlet import Outlet
from weft.agent.settings import NodeSettings
from weft.agent.stock import Stock
from weft.client.coordinator import Coordinator as Questions
from weft.client.flow import Flow, run_async
from weft.client.http import AsyncHttpxHttp
from weft.client.ports import AsyncSystemClock, Request, Response
from weft.coordinator.app import Coordinator
from weft.dataplane import PeerDistance, RdmaRecord, Registered, WayReport
from weft.ledger import MemoryJournal
from weft.model.errors import Disconnected, NoMemory, TimedOut, Unreachable
from weft.model.ids import NodeId
from weft.telemetry import Log

T = TypeVar("T")
MIB = 1 << 20
# Every condition of these tests is there in milliseconds; this is when something is wrong.
DEADLINE_S = 10.0


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class SeededRandom:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def draw(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)


class FakeMemory:
    """Memory that remembers what was asked of it. `gate` holds reservations back, `full` refuses them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rdma: RdmaRecord | None = None
        self.looks_for_rdma = False
        self.stock: Stock | None = None
        self.steps: list[tuple[Any, ...]] = []
        self.held: dict[tuple[str, int], int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = False
        self.distance = PeerDistance(rtt_us=30.0, tier="fast")
        self.measured: list[tuple[str, int]] = []
        self.closed = False

    async def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        await self.gate.wait()
        if self.full:
            raise NoMemory("the machine has no memory left")
        self.steps.append(("reserve", index, size_bytes, generation))
        self.held[region_id, index] = size_bytes

    async def raise_generation(self, region_id: str, generation: int) -> None:
        self.steps.append(("raise", generation))

    async def release_extent(self, region_id: str, index: int) -> None:
        self.steps.append(("release", index))
        del self.held[region_id, index]

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What every node registered: there is nothing here to choose among."""

    def ways(self) -> Sequence[WayReport]:
        """No bytes move."""
        return ()

    async def find_rdma(self) -> tuple[RdmaRecord | None, str]:
        """The device as a test says it is."""
        return self.rdma, "the device came or went"

    def counters(self) -> Mapping[str, int]:
        return {"bytes_served": 0}

    async def measure(self, host: str, port: int) -> PeerDistance:
        self.measured.append((host, port))
        return self.distance

    async def close(self) -> None:
        self.closed = True


class Wire:
    """The way to the coordinator, which can be cut: what is under way then is lost too."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._cut = asyncio.Event()

    def cut(self) -> None:
        self._cut.set()

    def mend(self) -> None:
        self._cut.clear()

    async def send(self, request: Request, timeout_s: float) -> Response:
        if self._cut.is_set():
            raise Unreachable("no coordinator answers at http://coordinator")
        http = AsyncHttpxHttp("http://coordinator", transport=httpx.ASGITransport(app=self.app))
        sent = asyncio.ensure_future(http.send(request, timeout_s))
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait((sent, cut), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if sent.done():
                return sent.result()
            raise Disconnected("the connection ended") if cut.done() else TimedOut("no answer in time")
        finally:
            cut.cancel()
            sent.cancel()
            await asyncio.wait((sent,))
            await http.close()

    async def close(self) -> None:
        pass


@dataclass
class Started:
    """A node that runs in a task, and all that is known of it from outside."""

    name: str
    stop: asyncio.Event
    task: "asyncio.Task[None]"
    announced: list[str]
    remarks: list[str]
    memories: list[FakeMemory]

    @property
    def memory(self) -> FakeMemory:
        return self.memories[-1]


@dataclass
class World:
    """One coordinator, and the nodes of a test."""

    wire: Wire
    nodes: list[Started] = field(default_factory=list)
    questions: Questions = field(default_factory=Questions)
    token: str | None = None
    questions_wire: Wire | None = None
    """The way of those who ask, where it is not the nodes' own."""
    _order: Iterator[int] = field(default_factory=itertools.count)

    async def ask(self, flow: Flow[T]) -> T:
        return await run_async(flow, self.questions_wire or self.wire, AsyncSystemClock(), random.Random(1))

    async def start(
        self,
        name: str,
        *,
        lend_mib: int = 64,
        prepare: Callable[[FakeMemory], None] | None = None,
        cloud: CloudSettings | None = None,
    ) -> Started:
        """Starts a node and waits until it says that it is up."""
        node = self.begin(name, lend_mib=lend_mib, prepare=prepare, cloud=cloud)
        await until(lambda: bool(node.announced) or node.task.done())
        if node.task.done():
            node.task.result()
        return node

    def begin(
        self,
        name: str,
        *,
        lend_mib: int = 64,
        prepare: Callable[[FakeMemory], None] | None = None,
        cloud: CloudSettings | None = None,
    ) -> Started:
        """Starts a node."""
        order = next(self._order)
        announced: list[str] = []
        remarks: list[str] = []
        memories: list[FakeMemory] = []

        async def listen(cluster_id: bytes, incarnation: int) -> Memory:
            memory = FakeMemory(50051 + order + 10 * len(memories))
            if prepare is not None:
                prepare(memory)
            memories.append(memory)
            return memory

        stop = asyncio.Event()
        node = Node(
            node_settings(name, lend_mib, cloud),
            token=self.token,
            read_token=lambda: self.token,
            http=self.wire,
            listen=listen,
            clock=AsyncSystemClock(),
            chance=random.Random(order),
            outlet=Outlet(announce=announced.append, remark=remarks.append),
        )
        started = Started(name, stop, asyncio.ensure_future(node.run(stop)), announced, remarks, memories)
        self.nodes.append(started)
        return started

    async def end(self) -> None:
        for node in self.nodes:
            node.stop.set()
        tasks = [node.task for node in self.nodes]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DEADLINE_S)
            assert not late, "a node did not stop"


def node_settings(name: str, lend_mib: int = 64, cloud: CloudSettings | None = None) -> NodeSettings:
    """What a node of these tests is started with."""
    return NodeSettings(
        name=NodeId(name),
        lend_bytes=lend_mib * MIB,
        listen_host="127.0.0.1",
        host="127.0.0.1",
        port_first=50051,
        port_last=50100,
        cluster_name="weft",
        url="http://coordinator",
        hostname=name,
        cpu_count=2,
        memory_bytes=1 << 30,
        cloud=cloud,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, a few milliseconds at a time, and not for ever."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - conditions are looked at from outside
            await asyncio.sleep(0.005)


async def settled(look: Callable[[], Awaitable[T]], condition: Callable[[T], bool]) -> T:
    """What `look` sees once it satisfies the condition."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition(seen := await look()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        return seen


async def found_coordinator(seed: int = 7, **settings: Any) -> Coordinator:
    """A coordinator that keeps its journal in memory, so that each has a ledger of its own."""
    coordinator = Coordinator(
        MemoryJournal(),
        SystemClock(),
        SeededRandom(seed),
        Log(io.StringIO(), SystemClock().now_ms),
        secret=b"secret",
        name="test",
        **settings,
    )
    await coordinator.start()
    return coordinator


@contextlib.asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """A coordinator and no nodes yet; every node is stopped at the end."""
    coordinator = await found_coordinator(**settings)
    made = World(Wire(coordinator.app))
    try:
        yield made
    finally:
        made.wire.mend()
        await made.end()
        await coordinator.stop()
