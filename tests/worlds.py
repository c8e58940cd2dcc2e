"""Small worlds for tests: a core without a shell, a coordinator without a network, lenders without memory."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from weft.coordinator.app import Coordinator, Limits
from weft.core.dispatch import apply, decide
from weft.core.moment import Moment
from weft.core.replay import close_batch, follow
from weft.core.state import Draft, State
from weft.ledger import Journal, MemoryJournal, SqliteJournal
from weft.model.batch import Batch, Entry, SealedBatch, seal
from weft.model.commands import Command, FoundCluster, OpenLedger, OpenTerm, RegisterNode
from weft.model.errors import WeftError
from weft.model.events import Event
from weft.model.ids import Incarnation, NodeId, Position
from weft.model.node import Machine, NodeDescription, NodeStatus
from weft.model.policy import STRIPE_BYTES, LedgerPolicy
from weft.telemetry import Log

SECRET = b"a secret for tests"
STRIPE = STRIPE_BYTES


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.step_ms = 0
        """How far somebody has put the wall clock off."""
        self.running: list[Callable[[], None]] = []
        """What whoever goes by this clock does all the time while it runs."""

    def now_ms(self) -> int:
        return self.ms + self.step_ms

    def monotonic_ms(self) -> int:
        return self.ms

    def advance(self, ms: int) -> None:
        """Time passes for processes that run."""
        self.stop(ms)
        for note in self.running:
            note()

    def stop(self, ms: int) -> None:
        """Time passes, and whoever goes by this clock was stopped for all of it."""
        self.ms += ms


class CountingRandom:
    """Chance that counts: every draw differs from every other, and every run is the same."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, size_bytes: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(8, "big").ljust(size_bytes, b"\0")[:size_bytes]


def node(node_id: str, lend_stripes: int = 0, status: NodeStatus = NodeStatus.ONLINE) -> RegisterNode:
    """A node that joins."""
    machine = Machine(hostname=f"host-{node_id}", ip_address="10.0.0.1", cpu_count=4, memory_mb=8192)
    return RegisterNode(
        node=NodeDescription(node_id=NodeId(node_id), status=status, machine=machine, lend_bytes=lend_stripes * STRIPE)
    )


class World:
    """The core with a log and nothing around it."""

    def __init__(self, policy: LedgerPolicy = LedgerPolicy()) -> None:  # noqa: B008 — frozen, so sharing it is harmless.
        self.state = State()
        self.log: list[SealedBatch] = []
        self.now_ms = 1_700_000_000_000
        self.silent: frozenset[NodeId] = frozenset()
        self.random = CountingRandom()
        self.batch(OpenLedger(policy=policy), OpenTerm(writer="test"))

    @classmethod
    def founded(cls, *nodes: RegisterNode, policy: LedgerPolicy = LedgerPolicy()) -> "World":  # noqa: B008 — as above.
        """A world with a cluster, each of its nodes in its first life."""
        world = cls(policy)
        world.do(FoundCluster(name="c", nodes=nodes))
        return world

    def do(self, command: Command) -> tuple[Event, ...]:
        """Decide one command and live with what it becomes."""
        (outcome,) = self.batch(command)
        if isinstance(outcome, WeftError):
            raise outcome
        return outcome

    def batch(self, *commands: Command) -> list[tuple[Event, ...] | WeftError]:
        """Decide commands one after the other in one batch, as the writer does."""
        draft = Draft(self.state)
        sequence = self.state.publishers.get("test") or 0
        outcomes: list[tuple[Event, ...] | WeftError] = []
        entries: list[Entry] = []
        for command in commands:
            moment = Moment(now_ms=self.now_ms, chance=self.random.draw(16), silent=self.silent)
            try:
                events = decide(draft, command, moment)
            except WeftError as error:
                outcomes.append(error)
                continue
            for event in events:
                apply(draft, event)
                sequence += 1
                entries.append(Entry(sequence=sequence, cause="test", event=event))
            outcomes.append(events)
        if entries:
            self._keep(draft, entries)
        return outcomes

    def _keep(self, draft: Draft, entries: list[Entry]) -> None:
        ledger, marks = draft.ledger, self.state.marks
        assert ledger is not None
        sealed = seal(
            Batch(
                cluster_id=ledger.cluster_id,
                term=ledger.term,
                publisher="test",
                position=Position(marks.position + 1),
                parent=marks.log_digest,
                at_ms=self.now_ms,
                entries=tuple(entries),
            )
        )
        close_batch(draft, sealed)
        self.state.merge(draft)
        self.log.append(sealed)


def replay(log: Sequence[SealedBatch]) -> State:
    """The state a log gives to somebody who only reads it."""
    state = State()
    for sealed in log:
        state.merge(follow(state, sealed))
    return state


class Door:
    """A client of a coordinator in the same process."""

    def __init__(self, coordinator: Coordinator, clock: FakeClock, log: io.StringIO) -> None:
        self.coordinator = coordinator
        self.clock = clock
        self.log = log
        transport = httpx.ASGITransport(app=coordinator.app, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://coordinator")

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request. A body of bytes goes as it is."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return await self.http.request(method, path, content=content, headers=named)

    async def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """One request that has to succeed; its body."""
        answer = await self(method, path, body, **headers)
        assert answer.status_code < 300, (answer.status_code, answer.text)
        return answer.json()

    async def found(self, *lenders: "Lender") -> None:
        """A cluster in which these lenders have joined and beaten once."""
        await self.ok("POST", "/cluster", {"name": "c"})
        for lender in lenders:
            await lender.join()

    async def ready_region(self, name: str, stripes: int, *lenders: "Lender") -> Any:
        """A region these lenders have backed."""
        await self.ok("POST", "/regions", {"name": name, "size_bytes": stripes * STRIPE})
        for lender in lenders:
            await lender.catch_up()
        region = await self.ok("GET", f"/regions/{name}")
        assert region["state"] == "ready"
        return region

    async def during(self, request: Awaitable[Any], *lenders: "Lender") -> Any:
        """The outcome of a request, with lenders that beat and time that passes while it is under way."""
        task = asyncio.ensure_future(request)
        for _ in range(100):
            await self.settle()
            if task.done():
                break
            for lender in lenders:
                await lender.beat()
            if not task.done():
                await self.pass_time(100)
        return await asyncio.wait_for(task, 5)

    async def settle(self) -> None:
        """Let everything that can go on go on."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def pass_time(self, ms: int) -> None:
        """Let time pass, and have everybody who waits see it."""
        self.clock.advance(ms)
        self.coordinator._changes.notice()
        await asyncio.sleep(0)


class Lender:
    """A node that lends memory it does not have: it beats, and holds whatever it is told to."""

    def __init__(self, door: Door, node_id: str, lend_stripes: int = 64, incarnation: int = 0xA1) -> None:
        self.door = door
        self.node_id = node_id
        self.lend_stripes = lend_stripes
        self.incarnation = Incarnation(incarnation)
        self.generation = 0
        self.extents: list[dict[str, Any]] = []
        self.failing: str | None = None
        self.counters: dict[str, int] = {}

    async def join(self) -> None:
        """Join, say where, and beat."""
        await self.door.ok("POST", "/nodes", seed_node(self.node_id, lend_bytes=self.lend_stripes * STRIPE))
        await self.door.ok("POST", f"/nodes/{self.node_id}/endpoint", seed_tcp())
        await self.beat()

    async def beat(self, wait_ms: int = 0) -> Any:
        """Beat once and take the answer to heart."""
        reply = await self.door.ok("POST", f"/nodes/{self.node_id}/beat", self.body(wait_ms))
        self.generation = reply["generation"]
        self.extents = reply["extents"]
        return reply

    async def catch_up(self) -> None:
        """Hear what to hold, and say that it is held."""
        await self.beat()
        await self.beat()

    def body(self, wait_ms: int = 0) -> dict[str, Any]:
        """What it says of itself."""
        state = "failed" if self.failing else "ready"
        extents = [
            {"region_id": extent["region_id"], "index": extent["index"], "state": state, "error": self.failing}
            for extent in self.extents
        ]
        return {
            "incarnation": f"{self.incarnation:016x}",
            "generation": self.generation,
            "wait_ms": wait_ms,
            "observations": {"extents": extents, "counters": self.counters},
        }

    def restart(self) -> None:
        """Die and begin another life, with nothing."""
        self.incarnation = Incarnation(self.incarnation + 1)
        self.generation = 0
        self.extents = []


@asynccontextmanager
async def coordinator_door(
    journal: Journal | None = None, limits: Limits | None = None, tokens: tuple[str, ...] = (), **settings: Any
) -> Any:
    """A running coordinator with a clock that stands still and timers that only a test moves."""
    clock, log = FakeClock(), io.StringIO()
    coordinator = Coordinator(
        journal or MemoryJournal(),
        clock,
        CountingRandom(),
        Log(log, clock.now_ms),
        secret=SECRET,
        name="test",
        tokens=tokens,
        limits=limits or Limits(sweep_ms=3_600_000),
        **settings,
    )
    await coordinator.start()
    clock.running.append(coordinator.pulse.note)
    door = Door(coordinator, clock, log)
    try:
        yield door
    finally:
        await door.http.aclose()
        await coordinator.stop()


def run(story: Callable[[Door], Awaitable[None]], directory: Path | None = None, **settings: Any) -> None:
    """Tell a story to a fresh coordinator, on a journal in `directory` or in memory."""

    async def tell() -> None:
        journal = SqliteJournal(directory) if directory is not None else None
        async with coordinator_door(journal, **settings) as door:
            await story(door)

    asyncio.run(tell())


def seed_node(node_id: int | str = 0, **fields: Any) -> dict[str, Any]:
    """A node as the endpoint seed's clients write one."""
    return {
        "node_id": node_id,
        "hostname": f"node{node_id}",
        "ip_address": "192.168.1.10",
        "cpu_count": 4,
        "memory_mb": 8192,
        "status": "active",
        **fields,
    }


def seed_tcp(address: str = "192.168.1.10", port: int = 50051) -> dict[str, Any]:
    """A TCP endpoint, verbatim from the seed."""
    return {"transport_type": "tcp", "tcp_addr": address, "tcp_port": port}


def seed_rdma() -> dict[str, Any]:
    """An RDMA endpoint, verbatim from the seed."""
    return {
        "transport_type": "rdma",
        "rdma_qpn": 12345,
        "rdma_lid": 1,
        "rdma_gid": "fe80::a00:27ff:fe00:0",
        "rdma_psn": 100,
    }
