"""The machine the coordinator runs on: its disk outlives it, and a supervisor starts it again.

What runs is the real `Coordinator`, put together as `weft.coordinator.__main__` does it, with simulated ports.
"""

import asyncio
import io
import json
import random
from collections.abc import Callable
from typing import Final

from weft.coordinator.app import Coordinator, Limits
from weft.core.state import State
from weft.ledger import Journal, MemoryJournal
from weft.ledger.chain import StoredBatch
from weft.model.errors import WeftError
from weft.telemetry import Log
from weft.testing.clock import ProcessClock
from weft.testing.disk import Disk, DiskJournal
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network
from weft.testing.process import Process

PLACE: Final = "coordinator"
"""What the network calls the machine."""
SECRET: Final = b"the secret of a simulated cluster"


class Host:
    """The coordinator's machine. `on_memory` keeps the journal in memory that, unlike a process's, outlives a crash.

    `attend` is shown every coordinator that begins here, before it has read a line of its log.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        note: Callable[[str], None],
        *,
        seed: str,
        on_memory: bool = False,
        limits: Limits | None = None,
        cloud: bool = False,
    ) -> None:
        self.cloud = cloud
        self.attend: Callable[[Coordinator], None] = lambda _coordinator: None
        self.disk = Disk(random.Random(f"{seed} disk"))
        self.clock = ProcessClock(loop, started_s=1_000.0)
        self.process: Process | None = None
        self.coordinator: Coordinator | None = None
        self.errors: list[str] = []
        self.lives = 0
        self.wanted = False
        self._loop, self._network, self._note, self._seed = loop, network, note, seed
        self._memory = MemoryJournal() if on_memory else None
        self._journal: Journal | None = None
        self._limits = limits or Limits()
        self._ready = False

    @property
    def is_serving(self) -> bool:
        """Whether the coordinator listens."""
        return self._ready and self.process is not None and self.process.alive

    @property
    def state(self) -> State | None:
        """What the coordinator believes, while there is one."""
        return self.coordinator.writer.state if self.coordinator is not None and self.is_serving else None

    def rows(self) -> list[StoredBatch]:
        """What is kept and synced, however the journal keeps it."""
        if self._memory is not None:
            return self._memory._rows
        return self.disk.rows[: self.disk.synced_count]

    def start(self) -> None:
        """Start the coordinator, and start it again whenever it ends by itself, until it is killed or stopped."""
        assert self.process is None, "it runs already"
        self.wanted = True
        self._begin()

    def kill(self, *, silently: bool = False) -> None:
        """End it as SIGKILL does; with `silently`, as a power cut does, which takes what was not synced."""
        self.wanted = False
        process, self.process, self.coordinator = self.process, None, None
        self._ready = False
        if process is None:
            return
        if isinstance(self._journal, DiskJournal):
            self._journal.sever()
        self._network.hush(PLACE)
        process.kill(silently=silently)
        lost = self.disk.crash() if silently else 0
        # What SIGKILL leaves in the machine's memory the kernel still writes.
        self.disk.synced_count = len(self.disk.rows)
        self._note(f"{PLACE} killed, {lost} batches lost")

    def stop(self) -> None:
        """End it as SIGTERM does: let everybody finish, then let go of the journal."""
        self.wanted = False
        process, coordinator = self.process, self.coordinator
        if process is None or coordinator is None or not self._ready:
            self.kill()
            return
        self._ready = False
        self._network.hush(PLACE)
        process.spawn(self._stop(process, coordinator), "stop")

    async def _stop(self, process: Process, coordinator: Coordinator) -> None:
        coordinator.drain()
        await asyncio.sleep(0.05)
        if self._memory is None:
            await coordinator.stop()
        self._note(f"{PLACE} stopped")
        if self.process is process:
            self.process = self.coordinator = None
        # Whatever is left of it goes with it; this task is the last of them.
        self._loop.call_later(0.0, process.kill)

    def _begin(self) -> None:
        self.lives += 1
        process = Process(self._loop, PLACE, seed=f"{self._seed} coordinator {self.lives}", clock=self.clock)
        self._journal = self._memory if self._memory is not None else DiskJournal(self.disk)
        self.process = process
        self.coordinator = process.context.run(self._compose, process, self._journal)
        self.attend(self.coordinator)
        process.spawn(self._live(process, self.coordinator), "coordinator")

    def _compose(self, process: Process, journal: Journal) -> Coordinator:
        return Coordinator(
            journal,
            self.clock,
            process,
            Log(_Ear(self.errors), self.clock.now_ms),
            secret=SECRET,
            name=f"coordinator-{self.lives}",
            limits=self._limits,
            home=not self.cloud,
        )

    async def _live(self, process: Process, coordinator: Coordinator) -> None:
        """What `__main__` does: start, listen, and end when the writer or the sweep does."""
        try:
            await coordinator.start()
            self._network.serve(PLACE, process, coordinator.app)
            self._ready = True
            self._note(f"{PLACE} serves, life {self.lives}")
            await coordinator.failed()
        except WeftError as error:
            if self.process is not process or not self.wanted:
                return
            self._note(f"{PLACE} ended: {error.code}")
            self._loop.call_later(1.0, self._revive, process)
        except Exception as error:
            self.errors.append(f"the coordinator ended by {error!r}")
            self._loop.call_later(1.0, self._revive, process)

    def _revive(self, ended: Process) -> None:
        if self.process is ended and self.wanted:
            self.kill()
            self.wanted = True
            self._begin()


class _Ear(io.StringIO):
    """A stream that keeps the lines that say a bug was met."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__()
        self._errors = errors

    def write(self, text: str) -> int:
        """Take a line."""
        if '"level": "error"' in text:
            line = json.loads(text)
            self._errors.append(f"{line['event']}: {line.get('exception', '')}".strip())
        return len(text)
