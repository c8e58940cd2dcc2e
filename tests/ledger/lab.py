"""A laboratory: three layers in memory that fail when told to, and everything that lives with them, in virtual time."""

import asyncio
import io
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.worlds import SECRET, node
from weft.coordinator.app import Coordinator, Limits
from weft.coordinator.availability import Availability
from weft.coordinator.repeats import Answer, Cause
from weft.core.state import state_digest
from weft.ledger import MemoryJournal
from weft.ledger.envelope import Kind, unwrap
from weft.ledger.layer import Commitment
from weft.ledger.layers import MemoryLayer
from weft.ledger.router import choose_active
from weft.model.availability import AvailabilityPolicy, ReconcilePolicy, Role, Standing, Thresholds
from weft.model.batch import SealedBatch
from weft.model.commands import Command, FoundCluster
from weft.model.ids import ClusterId, Position, RequestId
from weft.receipts import Domain, SigningKey
from weft.telemetry import Log, Metrics
from weft.testing.clock import ProcessClock
from weft.testing.loop import SimulatedLoop

INTERVAL_MS = 1_000
POLICY = AvailabilityPolicy(interval_ms=INTERVAL_MS, thresholds=Thresholds(), reconcile=ReconcilePolicy())
KEY = SigningKey.from_secret(SECRET, Domain.PUBLISHER)
CLUSTER = ClusterId(bytes(16))
ALL = (Role.PRIMARY, Role.SECONDARY, Role.EMERGENCY)


class Chance:
    def __init__(self, seed: object) -> None:
        self._random = random.Random(f"lab {seed}")

    def draw(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)


class KeptJournal(MemoryJournal):
    """A journal that outlives its coordinator."""

    async def close(self) -> None:
        pass


class Lab:
    """The world: a clock, layers, a journal, and a directory for the pending list."""

    def __init__(
        self,
        loop: SimulatedLoop | None,
        *,
        roles: Sequence[Role] = ALL,
        directory: Path | None = None,
        seed: object = 0,
        is_shared: bool = False,
    ) -> None:
        self.loop = loop or SimulatedLoop()
        self.clock = ProcessClock(self.loop, started_s=500.0)
        self.layers = {role: MemoryLayer(self.clock, Chance((seed, role))) for role in roles}
        self.journal = KeptJournal()
        self.directory = directory
        self.log = io.StringIO()
        self.lives = 0
        self.availability: Availability = None  # type: ignore[assignment]  # until one is started
        self.coordinator: Coordinator = None  # type: ignore[assignment]
        self._seed = seed
        self._is_shared = is_shared

    @property
    def primary(self) -> MemoryLayer:
        return self.layers[Role.PRIMARY]

    @property
    def standing(self) -> Standing:
        return self.availability.board.now.standing

    async def watch(self, policy: AvailabilityPolicy = POLICY) -> Availability:
        """Layers watched, with no coordinator around them and no log to ship."""
        log = Log(self.log, self.clock.now_ms)
        self.availability = Availability(
            self.layers, self.directory, MemoryJournal(), KEY, policy, self.clock, log, Metrics()
        )
        await self.availability.begin(Position(0), CLUSTER)
        return self.availability

    async def serve(self, policy: AvailabilityPolicy = POLICY, limits: Limits | None = None) -> Coordinator:
        """A coordinator on the journal, with the layers."""
        self.lives += 1
        self.coordinator = Coordinator(
            self.journal,
            self.clock,
            Chance((self._seed, self.lives)),
            Log(self.log, self.clock.now_ms),
            secret=SECRET,
            name=f"lab-{self.lives}",
            limits=limits or Limits(sweep_ms=3_600_000),
            layers=self.layers,
            availability=policy,
            directory=self.directory,
            shared=self.journal if self._is_shared else None,
        )
        await self.coordinator.start()
        assert self.coordinator.availability is not None
        self.availability = self.coordinator.availability
        return self.coordinator

    async def kill(self) -> None:
        """End the coordinator as `kill -9` does: nothing of it runs any more, and nothing is closed in order."""
        assert self.availability._task is not None
        tasks = [task for task in (*self.coordinator._tasks, self.availability._task) if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.availability.pending._connection.close()
        self.coordinator = None  # type: ignore[assignment]

    async def found(self) -> None:
        await self.write(FoundCluster(name="c", nodes=()), "found")

    async def write(self, command: Command, request: str) -> Answer:
        return await self.coordinator.writer.submit(command, Cause(RequestId(request), named=True))

    async def register(self, number: int) -> Answer:
        return await self.write(node(f"n{number}"), f"register-{number}")

    async def post(self, blob: bytes) -> Role:
        """What POST /da/post does."""
        placed = await self.availability.router.store(blob, choose_active, within_ms=25_000)
        return placed.role

    async def tick(self, signs: str) -> list[Standing]:
        """The primary is up (.) or down (x) at each check; how things stand after each."""
        standings = []
        for sign in signs:
            self.primary.is_down = sign == "x"
            await self.availability.monitor.look(Role.PRIMARY)
            standings.append(self.standing)
        return standings

    def wrapped(self, sealed: SealedBatch) -> bytes:
        """A small batch as layers keep it."""
        (blob,) = self.availability._wrap(sealed)
        return blob

    def kept(self, role: Role) -> list[Commitment]:
        """What a layer holds, in its order."""
        return [commitment for commitment, _ in self.layers[role]._blobs]

    def positions(self, role: Role) -> list[int]:
        """The places in the log of the batches a layer holds, in the layer's order."""
        found = [unwrap(blob, [KEY.public]) for _, blob in self.layers[role]._blobs]
        return [envelope.sequence for envelope in found if envelope.kind is Kind.BATCH]

    def digest(self) -> str:
        return state_digest(self.coordinator.writer.state).hex()


def live(story: Callable[[Lab], Awaitable[Any]], *, limit_s: float = 36_000.0, **settings: Any) -> Lab:
    """Tell a story in virtual time."""
    loop = SimulatedLoop(settings.get("seed", 0))
    lab = Lab(loop, **settings)
    task = loop.create_task(_tell(story, lab))
    try:
        assert loop.run_until(task.done, limit_s), f"the story was not over after {limit_s:.0f} s"
        task.result()
    finally:
        loop.close()
    assert not loop.mishaps, loop.mishaps
    return lab


async def _tell(story: Callable[[Lab], Awaitable[Any]], lab: Lab) -> None:
    try:
        await story(lab)
    finally:
        if lab.coordinator is not None:
            await lab.coordinator.stop()
        elif lab.availability is not None:
            await lab.availability.stop()
