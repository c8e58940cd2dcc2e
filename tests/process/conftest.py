"""Real processes for tests: each started with a deadline, known to be up by the line it prints, ended by its id."""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import weft
from weft.cli.demo.cluster import COORDINATOR, OWN_SETTINGS, Node, start_coordinator, start_node
from weft.cli.demo.crew import Child, Crew

MIB = 1 << 20
# A child of these tests starts Python and attaches within a second or two; this is when something is wrong.
DEADLINE_S = 30.0
PROGRAMS = Path(__file__).parent / "programs"


@dataclass
class Pool:
    """A coordinator, nodes that lend, and a way to it for this process."""

    crew: Crew
    url: str
    secret: str
    cluster: weft.Cluster
    nodes: dict[str, Node] = field(default_factory=dict)

    def lend(self, name: str, lend_mib: int = 64, *, port: int | None = None) -> Node:
        """Starts a node, or starts it again."""
        self.nodes[name] = start_node(self.crew, name, self.url, lend_mib * MIB, port=port)
        return self.nodes[name]

    def run(self, program: str, *arguments: object) -> Child:
        """Starts one of the programs beside these tests."""
        path = PROGRAMS / f"{program}.py"
        return self.crew.start(program, str(path), *map(str, arguments), environment={COORDINATOR: self.url})

    def filled(self, name: str, content: bytes) -> weft.Region:
        """A sealed region with this content."""
        region = self.cluster.region(name, size=len(content))
        with region.attach("exclusive") as memory:
            memory.write(0, content)
        return region.seal()


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A coordinator and two lenders, `a` and `b`, of 64 MiB each."""
    secret = secrets.token_hex(32)
    with Crew({"WEFT_SECRET": secret}, without=OWN_SETTINGS) as crew:
        url = start_coordinator(crew)
        with weft.connect(url, secret=secret, holder="tests") as cluster:
            made = Pool(crew, url, secret, cluster)
            made.lend("a")
            made.lend("b")
            yield made


def content_of(size_bytes: int, seed: str = "weft") -> bytes:
    """Bytes that differ from page to page and are never all zero."""
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def first_offset_at(region: weft.Region, node_id: str) -> int:
    """The first byte of a region that a node holds."""
    for band in region.layout.bands:
        for turn, extent in enumerate(band.extents):
            if extent.replicas[0].node_id == node_id:
                return (band.first_stripe + turn) * region.layout.stripe_bytes
    raise AssertionError(f"{node_id} holds nothing of {region}")
