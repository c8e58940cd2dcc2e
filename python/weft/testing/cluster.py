"""A whole cluster in one thread: the real coordinator, real agents, and programs that use them.

cluster = Cluster(seed=7, agents=3)
cluster.start()
assert cluster.loop.run_until(lambda: cluster.online() == {"n0", "n1", "n2"}, 10)
cluster.machines["n1"].kill()
cluster.loop.run_for(60)
"""

import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from weft.client.call import perform
from weft.client.coordinator import PATIENCE_S
from weft.client.coordinator import Coordinator as Questions
from weft.client.flow import Flow, now, run_async
from weft.client.operations import arrange
from weft.coordinator.app import Limits
from weft.model.node import NodeStatus
from weft.model.policy import STRIPE_BYTES
from weft.testing.balancer import Balancer
from weft.testing.clock import ProcessClock
from weft.testing.host import PLACE, SECRET, Host
from weft.testing.journal_server import JournalServer
from weft.testing.loop import SimulatedLoop
from weft.testing.machine import Machine
from weft.testing.network import Network, SimulatedHttp
from weft.testing.observer import Observer
from weft.testing.places import Places
from weft.testing.process import Process
from weft.testing.stock import StockDouble
from weft.testing.trace import Trace

T = TypeVar("T")

_SCRATCH: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 — a folder of our own within it.
"""Simulated disks are files in memory where there is such a place: their power cuts are simulated too."""
_SNAPSHOT_EVENTS: Final = 300
"""Often enough for a life to begin with one."""


class Cluster:
    """The world. Everything in it follows from the seed and from what is done to it."""

    def __init__(
        self,
        seed: int = 0,
        *,
        agents: int = 3,
        lend_stripes: int = 64,
        on_memory: bool = False,
        limits: Limits | None = None,
        cloud: bool = False,
        layered: bool = False,
        on_chain: bool = False,
        paired: bool = False,
        out: TextIO | None = None,
    ) -> None:
        """`layered`: the log goes to layers as well, the first of them a chain. `paired`: two coordinators, one log."""
        self.seed = seed
        self.cloud = cloud
        self.loop = SimulatedLoop(seed)
        self.trace = Trace(self.loop, out=out)
        self.chance = random.Random(f"world {seed}")
        self.network = Network(self.loop, random.Random(f"network {seed}"), self.trace.note)
        self._directory: Path | None = None
        self._sweep_up: Callable[[], object] | None = None
        if layered or paired:
            self._directory = Path(tempfile.mkdtemp(prefix="weft-sim-", dir=_SCRATCH))
            # Also of a world that nobody closes.
            self._sweep_up = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self.server: JournalServer | None = None
        self.places: Places | None = None
        if paired:
            self.server = JournalServer(self.loop, self.network, self.trace.note, seed=str(seed))
        if layered and self._directory is not None:
            self.places = Places(
                self.loop,
                self.network,
                self.trace.note,
                seed=str(seed),
                directory=self._directory,
                secret=SECRET,
                on_chain=on_chain,
            )
        self.hosts = [
            Host(
                self.loop,
                self.network,
                self.trace.note,
                seed=str(seed),
                on_memory=on_memory,
                limits=limits or (Limits(snapshot_events=_SNAPSHOT_EVENTS) if layered or paired else None),
                cloud=cloud,
                place=place,
                server=self.server,
                places=self.places,
                directory=self._directory / place if self._directory is not None else None,
            )
            for place in ([f"{PLACE}-a", f"{PLACE}-b"] if paired else [PLACE])
        ]
        self.balancer = Balancer(self.hosts, self.loop)
        if paired:
            self.network.route = self.balancer.route
        self.machines: dict[str, Machine] = {}
        for order in range(agents):
            self._add(order, lend_stripes * STRIPE_BYTES)
        self.observer = Observer(self.hosts, self.machines, self.trace.note)
        self.network.watch = self.observer.on_response
        self.programs: list[Process] = []

    @property
    def host(self) -> Host:
        """The machine of the coordinator that writes; of several that believe they do, the one of the last term."""
        return max(self.hosts, key=_term_of)

    def start_hosts(self) -> None:
        """Start the coordinator, and what it needs."""
        if self.server is not None:
            self.server.start()
        if self.places is not None:
            self.places.start()
        for host in self.hosts:
            host.start()

    def start(self) -> None:
        """Start the coordinator and every agent."""
        self.start_hosts()
        for machine in self.machines.values():
            machine.start()

    def close(self) -> None:
        """End the world."""
        for machine in self.machines.values():
            machine.kill()
        for host in self.hosts:
            host.kill()
        if self.places is not None:
            self.places.close()
        if self.server is not None:
            self.server.kill()
        for program in self.programs:
            program.kill()
        self.loop.run_for(0.0)
        self.loop.close()
        if self._sweep_up is not None:
            self._sweep_up()

    def program(self, name: str) -> Process:
        """A process on a machine of its own that asks the coordinator things."""
        process = Process(self.loop, name, seed=f"{self.seed} {name}", clock=ProcessClock(self.loop))
        self.programs.append(process)
        return process

    async def ask(self, program: Process, flow: Flow[T]) -> T:
        """Carry a client's flow out as a program. Raises what the flow raises."""
        http = SimulatedHttp(self.network, program, PLACE)
        return await run_async(flow, http, program.clock, program.chance)

    def do(self, program: Process, work: Coroutine[Any, Any, T]) -> T:
        """Live until a program has done something; its result."""
        task = program.spawn(work)
        assert self.loop.run_until(task.done, 300), f"{program.name} is not done after five minutes"
        return task.result()

    def online(self) -> set[str]:
        """The nodes the coordinator counts as online at this moment."""
        state, coordinator = self.host.state, self.host.coordinator
        if state is None or coordinator is None:
            return set()
        beats = coordinator._beats
        silent = beats.silent()
        return {
            node_id
            for node_id, node in state.nodes.items()
            if node.status is NodeStatus.ONLINE and node.incarnation is not None and node_id not in silent
        }

    def _add(self, order: int, lend_bytes: int) -> None:
        name = f"n{order}"
        machine = Machine(
            self.loop,
            self.network,
            self.trace.note,
            self._reaches,
            name=name,
            order=order,
            lend_bytes=lend_bytes,
            seed=str(self.seed),
            find_stock=self._find_stock,
            dropped=lambda object_hash: self.observer.on_dropped(object_hash),
            cloud=self.cloud,
        )
        self.machines[name] = machine

    def stock_at(self, source: str, host: str, port: int) -> StockDouble | None:
        """The objects behind a data port, if one machine reaches another's now."""
        for machine in self.machines.values():
            if machine.host == host and machine.memory is not None and machine.memory.port == port:
                reached = self.network.carries(source, machine.name) and self.network.carries(machine.name, source)
                awake = machine.process is not None and not machine.process.paused
                return machine.stock if reached and awake else None
        return None

    def _find_stock(self, source: Process, host: str, port: int) -> StockDouble | None:
        return self.stock_at(source.name, host, port)

    def _reaches(self, source: Process, host: str, port: int) -> bool:
        """Whether a machine's data port answers another machine."""
        for machine in self.machines.values():
            if machine.host == host:
                there = machine.memory is not None and machine.memory.port == port and machine.is_running
                return there and self.network.carries(source.name, machine.name)
        return False


def _term_of(host: Host) -> int:
    coordinator = host.coordinator
    return coordinator.writer.term if coordinator is not None and host.is_serving else -1


def question(operation: str, *, patience_s: float = PATIENCE_S, **values: Any) -> Flow[Any]:
    """Any operation of the route table, as a flow."""
    call = arrange(operation, values)
    started_s = yield from now()
    return (yield from perform(call, started_s + patience_s))


questions = Questions()
"""What a program may ask of a coordinator, as flows."""
