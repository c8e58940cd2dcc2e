"""A machine that lends: the real agent with simulated ports, through as many lives as it is given."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from weft.agent.cloud import CloudSettings
from weft.agent.engines import Engines
from weft.agent.memory import Memory
from weft.agent.node import Node
from weft.agent.outlet import Outlet
from weft.agent.settings import NodeSettings
from weft.handoff import HandoffFile
from weft.model.errors import IncarnationRetired
from weft.model.ids import NodeId
from weft.model.object import ObjectHash
from weft.testing.clock import ProcessClock
from weft.testing.host import PLACE, SECRET
from weft.testing.lender import LenderDouble
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network, SimulatedHttp
from weft.testing.process import Process
from weft.testing.rack import Rack
from weft.testing.stock import Shelf, StockDouble

PORT_FIRST: Final = 50_051
_PORTS: Final = 10_000
_SHELF_BYTES: Final = 64 << 20
_SCRUB_EVERY_MS: Final = 20_000
"""Often, so that a run is long enough for what went bad to be found."""
_LOOK_MS: Final = 1_000
"""How often a node of the cloud profile looks at its engines' files: the seed's own."""


class Machine:
    """One machine. Its clock goes on when its processes end; its memory does not."""

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        note: Callable[[str], None],
        reaches: Callable[[Process, str, int], bool],
        *,
        name: str,
        order: int,
        lend_bytes: int,
        seed: str,
        find_stock: Callable[[Process, str, int], StockDouble | None] = lambda _process, _host, _port: None,
        dropped: Callable[[ObjectHash], None] = lambda _object_hash: None,
        cloud: bool = False,
    ) -> None:
        self.name = name
        self.rack = Rack(self.host_of(order)) if cloud else None
        self.lend_bytes = lend_bytes
        self.clock = ProcessClock(loop, started_s=10.0 * order)
        self.process: Process | None = None
        self.node: asyncio.Task[None] | None = None
        self.memory: LenderDouble | None = None
        self.shelf = Shelf(_SHELF_BYTES)
        self.stock: StockDouble | None = None
        self.incarnation = 0
        self.incarnations: list[int] = []
        self.lives = 0
        self.leaving = False
        self.failures: list[str] = []
        self.remarks: list[str] = []
        self._stop: asyncio.Event | None = None
        self._order = order
        self._memories = 0
        self._loop, self._network, self._note, self._seed = loop, network, note, seed
        self._reaches = reaches
        self._find_stock, self._dropped = find_stock, dropped

    @property
    def is_running(self) -> bool:
        """Whether the agent runs, and is not on its way out."""
        return self.process is not None and self.process.alive and not self.leaving

    @staticmethod
    def host_of(order: int) -> str:
        """The address of the machine of this number."""
        return f"10.0.{order // 250}.{order % 250 + 1}"

    @property
    def host(self) -> str:
        """Its address."""
        return self.host_of(self._order)

    def start(self) -> None:
        """Start the agent: a new life, with nothing in it."""
        assert self.process is None, "it runs already"
        self.lives += 1
        self.leaving = False
        process = Process(self._loop, self.name, seed=f"{self._seed} {self.name} {self.lives}", clock=self.clock)
        self.process = process
        if self.rack is not None:
            self.rack.revive()
        self._stop = asyncio.Event()
        self.node = process.spawn(self._live(process, self._stop), f"node {self.name}")

    def stop(self) -> None:
        """SIGTERM: say goodbye, then end."""
        if self._stop is not None and self.is_running:
            self.leaving = True
            self._stop.set()

    def kill(self, *, silently: bool = False) -> None:
        """SIGKILL, or with `silently` a power cut. The memory goes with the process; engines only lose their power."""
        process, self.process = self.process, None
        if process is None:
            return
        if silently and self.rack is not None:
            self.rack.lose_power()
        process.kill(silently=silently)
        self._forget()

    async def _live(self, process: Process, stop: asyncio.Event) -> None:
        node = Node(
            self._settings(),
            token=None,
            http=SimulatedHttp(self._network, process, PLACE),
            listen=self._listener(process),
            clock=self.clock,
            chance=process.chance,
            outlet=Outlet(announce=self._note, remark=self.remarks.append),
            watch_engines=partial(Engines, read=self._handoffs, is_alive=self._is_alive),
        )
        try:
            await node.run(stop)
            self._note(f"{self.name} has left")
        except IncarnationRetired as error:
            self._note(f"{self.name} gives way: {error.code}")
        except Exception as error:
            self.failures.append(f"{self.name} ended by {error!r}")
        if self.process is process:
            self.process = None
            process.alive = False
            self._forget()

    def _forget(self) -> None:
        if self.memory is not None:
            self.memory.closed = True
            self.memory.held.clear()
            self.memory.gates.clear()
        if self.stock is not None:
            self.stock.closed = True
        self.memory = self.stock = None

    def _listener(self, process: Process) -> Callable[[bytes, int], "asyncio.Future[Memory]"]:
        async def listen(cluster_id: bytes, incarnation: int) -> Memory:  # noqa: ARG001
            self._memories += 1
            self.incarnation = incarnation
            self.incarnations.append(incarnation)
            self.stock = StockDouble(
                self.shelf,
                chance=process.chance,
                find=lambda host, port: self._find_stock(process, host, port),
                dropped=self._dropped,
            )
            self.memory = LenderDouble(
                PORT_FIRST + self._memories % _PORTS,
                room_bytes=self.lend_bytes,
                secret=SECRET,
                clock=self.clock,
                chance=process.chance,
                measure=lambda host, port: self._reaches(process, host, port),
                stock=self.stock,
            )
            return self.memory

        return listen  # type: ignore[return-value]

    def _handoffs(self) -> list[HandoffFile]:
        return self.rack.look() if self.rack is not None else []

    def _is_alive(self, pid: int) -> bool:
        return self.rack is not None and self.rack.is_alive(pid)

    def _cloud(self) -> CloudSettings | None:
        if self.rack is None:
            return None
        return CloudSettings(
            machine_id=self.name,
            address=f"http://{self.host}:9200",
            pool_ids=self.rack.pool_ids,
            runtime_dir=Path(),
            watch_interval_ms=_LOOK_MS,
            heartbeat_s=10,
            registers=True,
        )

    def _settings(self) -> NodeSettings:
        return NodeSettings(
            name=NodeId(self.name),
            lend_bytes=self.lend_bytes,
            listen_host=self.host,
            host=self.host,
            port_first=PORT_FIRST,
            port_last=PORT_FIRST + _PORTS,
            cluster_name="weft",
            url=f"http://{PLACE}",
            hostname=self.name,
            cpu_count=4,
            memory_bytes=1 << 34,
            scrub_every_ms=_SCRUB_EVERY_MS,
            cloud=self._cloud(),
        )
