"""A coordinator and nodes that keep objects, as real processes, each with its store where a test can reach it."""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import weft
from weft.cli.demo.cluster import OWN_SETTINGS, start_coordinator
from weft.cli.demo.crew import Child, Crew

T = TypeVar("T")
# Every condition of these tests is there in a second or two; this is when something is wrong.
DEADLINE_S = 40.0
# How long a silent node is waited for: long enough for a busy machine to get a beat through.
LOST_MS = 2_000


@dataclass
class Farm:
    """The cluster, and what each node keeps."""

    crew: Crew
    url: str
    cluster: weft.Cluster
    nodes: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str, *flags: str, objects: Path | None = None) -> Child:
        """Starts a node, or starts it again on the disk it had."""
        arguments = ("--name", name, "--coordinator", self.url, "--objects", str(objects or self.store_of(name)))
        child = self.crew.start(name, "-m", "weft.agent", *arguments, *self.crew.ports.flags(), *flags)
        child.line_with(f"weft node {name} ", DEADLINE_S)
        self.nodes[name] = child
        self.settled(lambda: self.cluster.ask(self.cluster.coordinator.objects(limit=1)).stores == len(self.nodes))
        return child

    def kill(self, *names: str) -> None:
        """As a power cut would."""
        for name in names:
            self.nodes.pop(name).kill()

    def store_of(self, name: str) -> Path:
        return self.crew.folder / "objects" / name

    def file_of(self, name: str, object_hash: str) -> Path:
        """Where a node keeps an object."""
        return self.store_of(name) / "objects" / object_hash[:2] / object_hash

    def content_of(self, name: str, object_hash: str) -> bytes | None:
        """What a node keeps of an object, None when it keeps no such file."""
        try:
            return self.file_of(name, object_hash).read_bytes()
        except FileNotFoundError:
            return None

    def holders(self, object_hash: str) -> list[str]:
        return self.cluster.objects.locate(object_hash).replicas

    def short_count(self) -> int:
        """How many objects have fewer copies than they should have and could."""
        return self.cluster.ask(self.cluster.coordinator.objects(limit=1)).under_replicated

    def settled(self, look: Callable[[], T]) -> T:
        """What a look sees once it is true."""
        ends_at = time.monotonic() + DEADLINE_S
        while not (seen := look()):
            assert time.monotonic() < ends_at, "the condition did not come"
            time.sleep(0.02)
        return seen


@contextmanager
def farm(*names: str, flags: tuple[str, ...] = ()) -> Iterator[Farm]:
    """A coordinator that gives nodes up soon, and these nodes."""
    secret = secrets.token_hex(32)
    environment = {"WEFT_SECRET": secret, "ORCHESTRATORD_NODE_TIMEOUT_MS": str(LOST_MS)}
    with Crew(environment, without=OWN_SETTINGS) as crew:
        url = start_coordinator(crew)
        with weft.connect(url, secret=secret, holder="tests") as cluster:
            made = Farm(crew, url, cluster)
            for name in names:
                made.start(name, *flags)
            yield made


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
