"""A program that watches the log: the client's own loop, and what it was handed.

It is ended and started again like any program, and goes on after the last event it saw. What it was handed must be the
log, each event once and none left out; `invariant_watchers_see_the_log` holds it to that.
"""

from collections import deque

import msgspec

from weft.api.bodies.events import EventInfo
from weft.client.client import AsyncClient
from weft.model.errors import WeftError
from weft.testing.cluster import Cluster
from weft.testing.host import PLACE
from weft.testing.network import SimulatedHttp
from weft.testing.process import Process

_PAUSE_S = 1.0
_PATIENCE_S = 20.0


class Seen(msgspec.Struct, frozen=True):
    """An event as the stream told of it."""

    position: int
    index: int
    last: bool
    sequence: int
    at_ms: int
    cause: str
    kind: str


class Watcher:
    """One reader of the log, through as many lives as it is given."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.fresh: deque[Seen] = deque()
        self.breaches: list[str] = []
        self.position = 0
        self.count = 0
        self.lives = 0
        self._due = (1, 0)
        self._since = "0"
        self._cluster = cluster
        self._process: Process | None = None

    def start(self) -> None:
        """Begin a life, after what the one before saw last."""
        assert self._process is None, "it runs already"
        self.lives += 1
        self._process = self._cluster.program(self.name)
        self._process.spawn(self._watch(self._process), self.name)

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    async def _watch(self, process: Process) -> None:
        http = SimulatedHttp(self._cluster.network, process, PLACE)
        client = AsyncClient(
            PLACE, token="", patience_s=_PATIENCE_S, http=http, clock=process.clock, chance=process.chance
        )
        while True:
            try:
                async for event in client.events(self._since):
                    self._take(event)
            except WeftError as error:
                self._cluster.trace.note(f"{self.name}: {error.code}")
            await process.clock.sleep(_PAUSE_S)

    def _take(self, event: EventInfo) -> None:
        """Note an event, and whether it is the one that was due."""
        self._since = f"{event.position}.{event.index}"
        if (event.position, event.index) != self._due:
            self.breaches.append(f"{self.name} was handed {self._since} where {self._due[0]}.{self._due[1]} was due")
        self._due = (event.position + 1, 0) if event.last else (event.position, event.index + 1)
        self.position = event.position if event.last else self.position
        self.count += 1
        self.fresh.append(
            Seen(event.position, event.index, event.last, event.sequence, event.at_ms, event.cause, event.kind)
        )
