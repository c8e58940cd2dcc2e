"""Members: programs that are nodes of the cluster by a name, from coming in to leaving."""

import secrets
import time
from collections.abc import Callable, Iterator

import pytest

import weft
from weft.cli.demo.cluster import OWN_SETTINGS, start_coordinator
from weft.cli.demo.crew import Crew
from weft.model.errors import ClusterNotFound, EndpointNotFound, IncarnationRetired, InvalidField

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[weft.Cluster]:
    for variable in ("WEFT_TRANSPORT", "WEFT_RDMA"):
        monkeypatch.delenv(variable, raising=False)
    secret = secrets.token_hex(32)
    with (
        Crew({"WEFT_SECRET": secret}, without=OWN_SETTINGS) as crew,
        weft.connect(start_coordinator(crew), secret=secret, holder="tests") as connected,
    ):
        yield connected


def settled(look: Callable[[], bool]) -> None:
    """Waits until a look sees it."""
    ends_at = time.monotonic() + 20
    while not look():
        assert time.monotonic() < ends_at, "the condition did not come"
        time.sleep(0.02)


@pytest.fixture
def founded(cluster: weft.Cluster) -> weft.Cluster:
    cluster.ask(cluster.coordinator.found("tests"))
    return cluster


def test_nobody_joins_what_nobody_founded(cluster: weft.Cluster) -> None:
    with pytest.raises(ClusterNotFound):
        cluster.join("a")


def test_a_member_is_a_node_that_brings_nothing_and_is_gone_when_it_leaves(founded: weft.Cluster) -> None:
    with founded.join("a") as member:
        [seen] = founded.describe().members
        assert (seen.node_id, seen.cpu_count, seen.memory_mb, seen.lend_bytes) == ("a", 0, 0, 0)
        record = founded.endpoints().endpoints["a"]
        assert (record.tcp_addr, record.tcp_port) == member.endpoint.address
    assert founded.describe().members == []
    member.close()


def test_a_name_is_one_process_s_while_that_lives(founded: weft.Cluster) -> None:
    with founded.join("a") as first:
        # Whoever's beat waits at the coordinator is heard now.
        settled(lambda: founded.describe().members[0].last_beat_ms_ago == 0)
        with pytest.raises(IncarnationRetired):
            founded.join("a")
        assert founded.endpoints().endpoints["a"].tcp_port == first.endpoint.address[1], "nothing of it was taken over"
    with founded.join("a") as second:
        assert founded.endpoints().endpoints["a"].tcp_port == second.endpoint.address[1]


def test_what_cannot_be_a_node_s_name_is_refused_before_anything_is_begun(founded: weft.Cluster) -> None:
    with pytest.raises(InvalidField):
        founded.join("no name")


def test_members_send_and_receive_by_name(founded: weft.Cluster) -> None:
    with founded.join("a") as a, founded.join("b") as b:
        to_b = a.peer("b")
        to_a = b.accept(5_000)
        assert to_a is not None
        assert to_a.name == "a"
        into = bytearray(9)
        coming = to_a.recv(into, tag=7)
        assert to_b.send(b"some data", tag=7).wait() == 9
        assert (coming.wait(), bytes(into)) == (9, b"some data")
        with pytest.raises(EndpointNotFound):
            a.peer("c")


def test_a_member_that_was_removed_comes_back_by_itself(founded: weft.Cluster) -> None:
    with founded.join("a"), founded.join("b") as b:
        founded.ask(founded.coordinator.leave("a"))
        settled(lambda: "a" in founded.endpoints().endpoints)
        assert b.peer("a").name == "a"
