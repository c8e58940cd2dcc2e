"""The machine the coordinator runs on: its disk outlives it, and a supervisor starts it again.

What runs is the real `Coordinator`, put together as `weft.coordinator.__main__` does it, with simulated ports.
"""

import asyncio
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from weft.coordinator.app import Coordinator, Limits
from weft.core.state import State
from weft.ledger import Journal, MemoryJournal
from weft.ledger.archive import Archive
from weft.ledger.chain import StoredBatch
from weft.ledger.snapshot import SnapshotFolder
from weft.model.errors import WeftError
from weft.receipts import Domain, SigningKey
from weft.telemetry import Log
from weft.testing.clock import ProcessClock
from weft.testing.disk import Disk, DiskJournal
from weft.testing.journal_server import JournalServer, SharedDiskJournal
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network
from weft.testing.places import POLICY, Places
from weft.testing.process import Process

PLACE: Final = "coordinator"
"""What the network calls the machine."""
REMARKS: Final = ("availability changed", "reconciled", "term begun", "an append failed")
"""What a coordinator's log tells of, and is counted: a life in which none of it happened proves little."""
SECRET: Final = b"the secret of a simulated cluster"


class Host:
    """The coordinator's machine. `on_memory` keeps the journal in memory that, unlike a process's, outlives a crash.

    `attend` is shown every coordinator that begins here, before it has read a line of its log. With a `server` the
    journal is there and shared with other hosts; with `places` the log goes to layers as well, and `directory` is the
    part of this machine's disk where the list of what is pending, the archive and snapshots are.
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
        place: str = PLACE,
        server: JournalServer | None = None,
        places: Places | None = None,
        directory: Path | None = None,
    ) -> None:
        self.cloud = cloud
        self.place = place
        self.attend: Callable[[Coordinator], None] = lambda _coordinator: None
        self.disk = Disk(random.Random(f"{seed} disk"))
        self.clock = ProcessClock(loop, started_s=1_000.0)
        self.process: Process | None = None
        self.coordinator: Coordinator | None = None
        self.errors: list[str] = []
        self.remarks: Counter[str] = Counter()
        self.lives = 0
        self.wanted = False
        self._loop, self._network, self._note, self._seed = loop, network, note, seed
        self._memory = MemoryJournal() if on_memory else None
        self._server, self._places, self._directory = server, places, directory
        self._archives: list[Archive] = []
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
        if self._server is not None:
            return self._server.rows()
        return self.disk.rows[: self.disk.synced_count]

    def start(self) -> None:
        """Start the coordinator, and start it again whenever it ends by itself, until it is killed or stopped."""
        assert self.process is None, "it runs already"
        self.wanted = True
        self._begin()

    def kill(self, *, silently: bool = False) -> None:
        """End it as SIGKILL does; with `silently`, as a power cut does, which takes what was not synced."""
        self.wanted = False
        coordinator, process = self.coordinator, self.process
        self.process = self.coordinator = None
        self._ready = False
        if process is None:
            return
        if isinstance(self._journal, DiskJournal | SharedDiskJournal):
            self._journal.sever()
        self._let_go(coordinator)
        self._network.hush(self.place)
        process.kill(silently=silently)
        lost = self.disk.crash() if silently else 0
        # What SIGKILL leaves in the machine's memory the kernel still writes.
        self.disk.synced_count = len(self.disk.rows)
        self._note(f"{self.place} killed, {lost} batches lost")

    def _let_go(self, coordinator: Coordinator | None) -> None:
        """What a killed process had open on its disk is closed, and nothing of it reaches the disk any more."""
        if coordinator is not None and coordinator.availability is not None:
            coordinator.availability.pending._connection.close()
        for archive in self._archives:
            archive._index.close()
        self._archives.clear()

    def stop(self) -> None:
        """End it as SIGTERM does: let everybody finish, then let go of the journal."""
        self.wanted = False
        process, coordinator = self.process, self.coordinator
        if process is None or coordinator is None or not self._ready:
            self.kill()
            return
        self._ready = False
        self._network.hush(self.place)
        process.spawn(self._stop(process, coordinator), "stop")

    async def _stop(self, process: Process, coordinator: Coordinator) -> None:
        coordinator.drain()
        await asyncio.sleep(0.05)
        if self._memory is None:
            await coordinator.stop()
        self._note(f"{self.place} stopped")
        if self.process is process:
            self._archives.clear()
            self.process = self.coordinator = None
        # Whatever is left of it goes with it; this task is the last of them.
        self._loop.call_later(0.0, process.kill)

    def _begin(self) -> None:
        self.lives += 1
        process = Process(self._loop, self.place, seed=f"{self._seed} {self.place} {self.lives}", clock=self.clock)
        self.process = process
        self.coordinator = process.context.run(self._compose, process)
        self.attend(self.coordinator)
        process.spawn(self._live(process, self.coordinator), self.place)

    def _compose(self, process: Process) -> Coordinator:
        shared = SharedDiskJournal(self._server, process) if self._server is not None else None
        journal = self._journal = shared or self._memory or DiskJournal(self.disk)
        more: dict[str, Any] = {}
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            key = SigningKey.from_secret(SECRET, Domain.PUBLISHER)
            more |= {"snapshots": SnapshotFolder(self._directory / "snapshots", key), "directory": self._directory}
            if self._places is not None:
                more |= {"layers": self._places.open(process, self._directory), "availability": POLICY}
                self._archives, self._places.archives = self._places.archives, []
        return Coordinator(
            journal,
            self.clock,
            process,
            Log(_Ear(self.errors, self.remarks), self.clock.now_ms),
            secret=SECRET,
            name=f"{self.place}-{self.lives}",
            limits=self._limits,
            home=not self.cloud,
            shared=shared,
            address=f"http://{self.place}",
            **more,
        )

    async def _live(self, process: Process, coordinator: Coordinator) -> None:
        """What `__main__` does: start, listen, and end when the writer or the sweep does."""
        try:
            await coordinator.start()
            self._network.serve(self.place, process, coordinator.app)
            self._ready = True
            self._note(f"{self.place} serves, life {self.lives}")
            await coordinator.failed()
        except WeftError as error:
            if self.process is not process or not self.wanted:
                return
            self._note(f"{self.place} ended: {error.code}")
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
    """A stream that keeps the lines that say a bug was met, and counts some of the others."""

    def __init__(self, errors: list[str], remarks: Counter[str]) -> None:
        super().__init__()
        self._errors = errors
        self._remarks = remarks

    def write(self, text: str) -> int:
        """Take a line."""
        for remark in REMARKS:
            self._remarks[remark] += f'"event": "{remark}"' in text
        if '"level": "error"' in text:
            line = json.loads(text)
            self._errors.append(f"{line['event']}: {line.get('exception', '')}".strip())
        return len(text)
