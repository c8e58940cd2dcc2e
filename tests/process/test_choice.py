"""How nodes reach each other, from what they registered: chosen, said, shown, and changed while transfers go on.

The RDMA of these tests is a verbs library that is none, loaded by real processes in place of libibverbs; what is told
to devices and to the coordinator is the same. `make test-rdma` has the real one.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.cli.demo.cluster import COORDINATOR, OWN_SETTINGS, start_coordinator
from weft.cli.demo.crew import Child, Crew

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).parent / "programs" / "member.py"
RUST = Path(__file__).parents[2] / "rust"
SIZE = 4 << 20
DEADLINE_S = 30.0


class Cluster:
    """A coordinator with a cluster of no nodes, and members as processes."""

    def __init__(self, crew: Crew, secret: str) -> None:
        self.crew = crew
        self.url = start_coordinator(crew)
        self.api = weft.connect(self.url, secret=secret, holder="tests")
        self.api.ask(self.api.coordinator.found("tests"))
        self.secret = secret

    def join(self, name: str, **settings: str) -> "Joined":
        child = self.crew.start(name, str(PROGRAM), name, str(SIZE), environment={COORDINATOR: self.url, **settings})
        return Joined(child, child.line_with(f"member {name} ", DEADLINE_S).split()[2])

    def node(self, name: str, objects: Path, **settings: str) -> Child:
        """Starts a node that keeps objects and lends a little."""
        arguments = ("--name", name, "--coordinator", self.url, "--objects", str(objects), "--lend", "8MiB")
        child = self.crew.start(name, "-m", "weft.agent", *arguments, environment=settings)
        child.line_with(f"weft node {name} ", DEADLINE_S)
        return child

    def status(self) -> dict[str, Any]:
        """What `weft status --json` shows of every node."""
        command = [sys.executable, "-m", "weft.cli", "status", "--json", "--coordinator", self.url]
        shown = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
        return {member["node_id"]: member for member in shown["cluster"]["members"]}


class Joined:
    """A member's process."""

    def __init__(self, child: Child, advert: str) -> None:
        self.child, self.advert = child, advert

    def ask(self, line: str) -> str:
        self.child.say(line)
        return self.child.line_with(f"answer {line.split()[0]} ", DEADLINE_S).split(" ", 2)[2].strip()

    def way(self, peer: str) -> dict[str, Any]:
        """How it reaches a peer."""
        [way] = [way for way in json.loads(self.ask("ways")) if way["name"] == peer]
        return dict(way)

    def moves_more(self, peer: str, transport: str) -> dict[str, Any]:
        """Waits until this transport has carried more than it has now."""
        before = self.way(peer)["moved_bytes"].get(transport, 0)
        return settled(
            lambda: way if (way := self.way(peer))["moved_bytes"].get(transport, 0) > before + SIZE else None
        )

    def said(self, part: str) -> list[str]:
        """The lines of its log with this in them."""
        return [line for line in self.child.lines if line.startswith("log ") and part in line]

    def says(self, part: str) -> None:
        """Waits for a line of its log with this in it."""
        settled(lambda: self.said(part), lambda: "\n".join(line[:400] for line in self.child.lines[-30:]))


def settled(look: Callable[[], Any], tell: Callable[[], str] = lambda: "") -> Any:
    """What a look sees once it is true; `tell` is for when it does not come."""
    ends_at = time.monotonic() + DEADLINE_S
    while not (seen := look()):
        assert time.monotonic() < ends_at, f"the condition did not come\n{tell()}"
        time.sleep(0.05)
    return seen


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    secret = secrets.token_hex(32)
    with Crew({"WEFT_SECRET": secret}, without=OWN_SETTINGS | {"WEFT_TRANSPORT", "WEFT_RDMA"}) as crew:
        made = Cluster(crew, secret)
        with made.api:
            yield made


@pytest.fixture(scope="session")
def fake_verbs() -> Path:
    """The fake library, built as the Rust tests build it."""
    if (cargo := shutil.which("cargo")) is None:
        pytest.skip("without cargo there is no fake verbs library")
    command = [cargo, "build", "--package", "weft-verbs", "--example", "fake_verbs", "--message-format", "json"]
    built = subprocess.run(command, cwd=RUST, capture_output=True, check=True, timeout=300, text=True).stdout
    artifacts = [json.loads(line) for line in built.splitlines()]
    [library] = [
        Path(file)
        for artifact in artifacts
        if artifact.get("target", {}).get("name") == "fake_verbs"
        for file in artifact.get("filenames", ())
    ]
    return library


@pytest.fixture
def slot(fake_verbs: Path, tmp_path: Path) -> dict[str, str]:
    """What a process is started with that may find a device. A file `device` beside the library plugs it in."""
    (tmp_path / "libibverbs.so.1").symlink_to(fake_verbs)
    return {"LD_LIBRARY_PATH": str(tmp_path), "WEFT_FAKE_VERBS": str(tmp_path), "WEFT_TRANSPORT": "rdma"}


def test_neighbours_find_each_other_by_name_and_are_shown_with_what_moved(cluster: Cluster) -> None:
    owner, other = cluster.join("owner"), cluster.join("other")
    assert other.ask(f"load owner {owner.advert}") == "begun"
    assert other.moves_more("owner", "ipc")["transport"] == "ipc"
    assert other.ask("settled").endswith("0 failed []")
    assert other.said("owner is reached by ipc")

    def seen() -> Any:
        peers = cluster.status()["other"]["peers"]
        return peers and peers[0]["moved_bytes"].get("ipc", 0) > SIZE and peers[0]

    shown = settled(seen)
    assert (shown["node_id"], shown["transport"], shown["reasons"]) == ("owner", "ipc", [])


def test_why_not_something_better_is_said_in_the_log_and_in_the_status(cluster: Cluster) -> None:
    owner, other = cluster.join("owner", WEFT_TRANSPORT="tcp"), cluster.join("other")
    other.ask(f"load owner {owner.advert}")
    way = other.moves_more("owner", "tcp")
    reasons = [
        "ipc not used with owner: owner answers no neighbours",
        "rdma not used with owner: other registered none",
    ]
    assert (way["transport"], way["reasons"]) == ("tcp", reasons)
    assert other.said(f"owner is reached by tcp; {'; '.join(reasons)}")
    settled(lambda: (peers := cluster.status()["other"]["peers"]) and peers[0]["reasons"] == reasons)
    assert other.ask("settled").endswith("0 failed []")


def test_peers_follow_a_node_from_tcp_to_rdma_and_back_without_a_failed_transfer(
    cluster: Cluster, slot: dict[str, str], tmp_path: Path
) -> None:
    owner, other = cluster.join("owner", **slot), cluster.join("other", **slot)
    other.ask(f"load owner {owner.advert}")
    assert other.moves_more("owner", "tcp")["transport"] == "tcp"

    # Adapters are installed in both; the one registers it, and then the other.
    (tmp_path / "device").touch()
    other.ask("rdma")
    other.says("rdma not used with owner: owner registered none")
    owner.ask("rdma")
    assert other.moves_more("owner", "rdma")["transport"] == "rdma"
    settled(lambda: (peers := cluster.status()["other"]["peers"]) and peers[0]["transport"] == "rdma")

    # It registers TCP again.
    owner.ask("tcp")
    other.says("rdma not used with owner: owner registered tcp after it")
    assert other.moves_more("owner", "tcp")["transport"] == "tcp"

    # And RDMA once more, until its adapter is pulled out: it registers TCP by itself, and nobody waits for that.
    owner.ask("rdma")
    assert other.moves_more("owner", "rdma")["transport"] == "rdma"
    owner.ask("pull")
    assert other.moves_more("owner", "tcp")["transport"] == "tcp"
    settled(lambda: cluster.api.endpoints().endpoints["owner"].transport_type == "tcp")
    settled(lambda: other.way("owner")["reasons"][-1] == "rdma not used with owner: owner registered tcp after it")

    rounds, failed = other.ask("settled").split(",", 1)
    assert failed.strip() == "0 failed []"
    assert int(rounds.split()[0]) > 20
    assert [one.ask("violations") for one in (owner, other)] == ["0", "0"]


def test_a_peer_that_died_and_came_back_without_its_device_is_found_again_by_tcp(
    cluster: Cluster, slot: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "device").touch()
    owner, other = cluster.join("owner", **slot), cluster.join("other", **slot)
    other.ask(f"load owner {owner.advert}")
    assert other.moves_more("owner", "rdma")["transport"] == "rdma"
    other.ask("settled")
    owner.child.kill()
    back = cluster.join("owner", WEFT_TRANSPORT="tcp")
    record = cluster.api.endpoints().endpoints["owner"]
    assert (record.transport_type, record.rdma_qpn) == ("tcp", None), "the queue pair ended with the life it was of"
    other.says("is given up")
    assert other.ask(f"load owner {back.advert}") == "begun"
    way = other.moves_more("owner", "tcp")
    assert way["reasons"][-1] == "rdma not used with owner: owner registered none"
    assert other.ask("settled").endswith("0 failed []")


def test_a_node_registers_tcp_again_when_its_adapter_is_pulled_out(
    cluster: Cluster, slot: dict[str, str], tmp_path: Path
) -> None:
    del slot["WEFT_TRANSPORT"]
    (tmp_path / "device").touch()
    node = cluster.node("a", tmp_path / "objects", **slot)
    assert cluster.api.endpoints().endpoints["a"].transport_type == "rdma"
    (tmp_path / "device").unlink()
    settled(lambda: cluster.api.endpoints().endpoints["a"].transport_type == "tcp")
    assert node.line_with("memory is lent over TCP alone from now on: ", DEADLINE_S)


def test_what_moves_between_nodes_is_said_and_shown_with_the_way_it_went(cluster: Cluster, tmp_path: Path) -> None:
    content = secrets.token_bytes(3 << 20)
    cluster.node("a", tmp_path / "a")
    settled(lambda: cluster.api.ask(cluster.api.coordinator.objects(limit=1)).stores == 1)
    name = cluster.api.put(content, replicas=2)
    # The second node is given its copy by the first.
    second = cluster.node("b", tmp_path / "b")
    settled(lambda: len(cluster.api.objects.locate(name).replicas) == 2)
    assert second.line_with("a is reached by tcp; ", DEADLINE_S)

    def seen() -> Any:
        peers = cluster.status()["b"]["peers"]
        return peers and peers[0]["moved_bytes"].get("tcp", 0) >= len(content) and peers[0]

    shown = settled(seen)
    assert (shown["node_id"], shown["transport"]) == ("a", "tcp")
    assert shown["reasons"][-1] == "rdma not used with a: b registered none"
