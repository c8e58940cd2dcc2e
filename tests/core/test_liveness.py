"""Liveness: the table, what silence makes of a node, and the brake."""

import itertools
from pathlib import Path

import msgspec
import pytest

from tests.worlds import World, node
from weft.core.liveness import TABLE, Patience, Signal, Standing, judge, standing, step
from weft.model.commands import AdmitBeat, DescribeNode, DrainNode, GiveUpNode, PurgeNode, ResumeNode
from weft.model.events import (
    NodeAppeared,
    NodeDescribed,
    NodeDrained,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeResumed,
    NodeReturned,
)
from weft.model.ids import Incarnation, NodeId
from weft.model.node import Capabilities, EngineHost, Node, NodeStatus, StorageHost

A = NodeId("a")
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
J, N, S, D, X, G = Standing
"""joining, online, suspect, draining, offline, gone"""

ROWS = [
    # state    register beat silence timeout drain resume purge remove
    (J, [J, N, J, X, D, J, J, G]),
    (N, [N, N, S, X, D, N, N, G]),
    (S, [N, N, S, X, D, S, S, G]),
    (D, [N, D, D, X, D, N, D, G]),
    (X, [N, N, X, X, X, X, G, G]),
    (G, [J, G, G, G, G, G, G, G]),
]


def engines(*pools: str, machine: str = "m") -> EngineHost:
    return EngineHost(
        machine_id=machine, address="http://10.0.0.1:9200", pool_ids=pools, capabilities=Capabilities(), version="1"
    )


def describe(**fields: object) -> DescribeNode:
    return DescribeNode(node_id=A, cluster_name="weft", **fields)  # type: ignore[arg-type]


def row(world: World) -> Node:
    found = world.state.nodes.get(A)
    assert found is not None
    return found


@pytest.mark.parametrize(("state", "nexts"), ROWS, ids=[row[0].value for row in ROWS])
def test_the_table_of_a_node_s_life(state: Standing, nexts: list[Standing]) -> None:
    assert [step(state, signal) for signal in Signal] == nexts


def test_the_picture_in_the_operations_page_is_the_table() -> None:
    rows = [line.strip("| ").split("|") for line in OPERATIONS.read_text().splitlines() if line.startswith("| **")]
    drawn = {cells[0].strip("* "): [cell.strip() for cell in cells[1:]] for cells in rows}
    for state, signals in TABLE.items():
        expected = [signals[signal].value if signal in signals else "·" for signal in Signal]
        assert drawn[state.value] == expected, state


def test_nothing_but_registering_leads_back_from_gone() -> None:
    assert [signal for signal in Signal if step(Standing.GONE, signal) is not Standing.GONE] == [Signal.REGISTER]


@pytest.mark.parametrize(
    ("stored", "incarnated", "silence_ms", "seen"),
    [
        (NodeStatus.ONLINE, True, None, Standing.ONLINE),
        (NodeStatus.ONLINE, True, 10_000, Standing.ONLINE),
        (NodeStatus.ONLINE, True, 10_001, Standing.SUSPECT),
        (NodeStatus.ONLINE, True, 30_000, Standing.SUSPECT),
        (NodeStatus.ONLINE, True, 30_001, Standing.OFFLINE),
        (NodeStatus.ONLINE, False, 20_000, Standing.ONLINE),
        (NodeStatus.ONLINE, False, 20_001, Standing.SUSPECT),
        (NodeStatus.JOINING, False, 25_000, Standing.JOINING),
        (NodeStatus.JOINING, False, 30_001, Standing.OFFLINE),
        (NodeStatus.DRAINING, True, 29_000, Standing.DRAINING),
        (NodeStatus.DRAINING, True, 30_001, Standing.OFFLINE),
        (NodeStatus.OFFLINE, True, 0, Standing.OFFLINE),
    ],
)
def test_what_a_silence_makes_of_a_node(
    stored: NodeStatus, incarnated: bool, silence_ms: int | None, seen: Standing
) -> None:
    world = World.founded(node("a", status=stored))
    record = row(world)
    if incarnated:
        record = msgspec.structs.replace(record, incarnation=Incarnation(1))
    assert standing(record, silence_ms, Patience()) is seen


def test_a_node_nobody_promised_beats_for_is_not_missed() -> None:
    record = row(World.founded(node("a")))
    assert not record.is_watched
    assert standing(record, None, Patience()) is Standing.ONLINE


def silences(*ms: int) -> dict[NodeId, int]:
    return {NodeId(f"n{index}"): silence for index, silence in enumerate(ms)}


@pytest.mark.parametrize(
    ("silent", "watched", "lost", "doubted"),
    [
        (silences(30_001), 1, 1, 0),
        (silences(30_001, 30_001), 2, 2, 0),
        (silences(31_000, 31_000, 31_000), 5, 0, 3),
        (silences(31_000, 31_000, 31_000), 6, 3, 0),
        (silences(60_000, 60_000, 60_000), 3, 0, 3),
        (silences(60_001, 60_001, 60_001), 3, 3, 0),
        (silences(60_001, 31_000, 31_000), 3, 1, 2),
    ],
)
def test_most_of_them_silent_at_once_is_doubted_for_a_while(
    silent: dict[NodeId, int], watched: int, lost: int, doubted: int
) -> None:
    verdict = judge(silent, watched, Patience())
    assert (len(verdict.lost), len(verdict.doubted)) == (lost, doubted)
    assert not verdict.lost & verdict.doubted


def test_a_doubted_node_is_suspect_and_not_offline() -> None:
    record = row(World.founded(node("a")))
    assert standing(record, 31_000, Patience(), doubted=True) is Standing.SUSPECT


def test_the_first_node_through_a_door_without_clusters_founds_one() -> None:
    world = World()
    _, registered = world.do(describe(engines=engines("p")))
    assert isinstance(registered, NodeRegistered)
    assert world.state.cluster is not None
    assert world.state.cluster.name == "weft"
    assert (row(world).status, row(world).is_watched) == (NodeStatus.JOINING, True)


def test_describing_a_node_again_in_the_same_words_is_no_news() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    world.do(describe(storage=StorageHost(zone="z", addr="a:1", capacity_gb=7)))
    assert world.do(describe(engines=engines("p"))) == ()
    assert world.do(describe(storage=StorageHost(zone="z", addr="a:1", capacity_gb=7))) == ()


def test_a_door_replaces_what_it_owns_and_leaves_the_rest() -> None:
    world = World.founded(node("a", 4))
    world.do(describe(engines=engines("p", "q")))
    world.do(describe(storage=StorageHost(zone="z", addr="a:1", capacity_gb=7)))
    (changed,) = world.do(describe(engines=engines("q")))
    assert changed == NodeDescribed(node_id=A, engines=engines("q"))
    record = row(world)
    assert record.machine is not None
    assert (record.machine.hostname, record.zone, record.capacity_gb) == ("host-a", "z", 7)
    assert record.engines == engines("q")


def test_the_cluster_door_completes_a_node_that_came_by_another() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    world.do(node("a", 4))
    record = row(world)
    assert (record.memory_mb, record.lend_bytes > 0, record.engines) == (8192, True, engines("p"))


def test_the_first_beat_that_names_no_life_brings_a_node_online() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    assert world.do(AdmitBeat(node_id=A, incarnation=None)) == (NodeAppeared(node_id=A),)
    assert world.do(AdmitBeat(node_id=A, incarnation=None)) == ()
    assert row(world).status is NodeStatus.ONLINE


def test_a_drain_outlives_a_silence() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    world.do(AdmitBeat(node_id=A, incarnation=None))
    assert world.do(DrainNode(node_id=A)) == (NodeDrained(node_id=A),)
    assert world.do(DrainNode(node_id=A)) == ()
    assert world.do(GiveUpNode(node_id=A, incarnation=None)) == (NodeLost(node_id=A),)
    assert row(world).status is NodeStatus.OFFLINE
    assert world.do(AdmitBeat(node_id=A, incarnation=None)) == (NodeReturned(node_id=A),)
    assert row(world).status is NodeStatus.DRAINING
    assert world.do(ResumeNode(node_id=A)) == (NodeResumed(node_id=A),)
    assert row(world).status is NodeStatus.ONLINE


def test_registering_anew_ends_a_drain_and_a_silence() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    world.do(DrainNode(node_id=A))
    world.do(GiveUpNode(node_id=A, incarnation=None))
    events = world.do(describe(engines=engines("p")))
    assert events == (NodeResumed(node_id=A), NodeReturned(node_id=A))
    assert row(world).status is NodeStatus.ONLINE


def test_a_node_that_says_it_is_leaving_is_drained() -> None:
    world = World.founded(node("a"))
    world.do(AdmitBeat(node_id=A, incarnation=Incarnation(1)))
    assert world.do(AdmitBeat(node_id=A, incarnation=Incarnation(1), draining=True)) == (NodeDrained(node_id=A),)


def test_only_what_is_offline_is_purged() -> None:
    world = World.founded()
    world.do(describe(engines=engines("p")))
    assert world.do(PurgeNode(node_id=A)) == ()
    world.do(GiveUpNode(node_id=A, incarnation=None))
    assert world.do(PurgeNode(node_id=A)) == (NodeRemoved(node_id=A),)
    assert world.do(PurgeNode(node_id=A)) == ()


def test_every_status_the_log_can_hold_is_a_standing() -> None:
    for status, signal in itertools.product(NodeStatus, [Signal.BEAT, Signal.TIMEOUT, Signal.DRAIN, Signal.RESUME]):
        assert step(Standing(status), signal).status in NodeStatus
