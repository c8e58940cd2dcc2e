"""Nodes: joining, leaving and the lives in between."""

import pytest

from tests.worlds import STRIPE, World, node
from weft.core.holding import target_generation
from weft.model.commands import (
    AdmitBeat,
    DestroyCluster,
    FoundCluster,
    GiveUpNode,
    PlanRegion,
    RegisterEndpoint,
    RegisterNode,
    RemoveNode,
)
from weft.model.endpoint import TcpHalf
from weft.model.errors import ClusterExists, ClusterNotFound, IncarnationRetired, NodeExists, NodeNotFound
from weft.model.events import LendingChanged, NodeIncarnated, NodeLost, NodeReturned
from weft.model.ids import Incarnation, NodeId, RegionName
from weft.model.node import NodeStatus

A = NodeId("a")


def beat(world: World, incarnation: int) -> tuple[type, ...]:
    events = world.do(AdmitBeat(node_id=A, incarnation=Incarnation(incarnation)))
    return tuple(type(event) for event in events)


def test_there_is_one_cluster() -> None:
    world = World.founded()
    with pytest.raises(ClusterExists):
        world.do(FoundCluster(name="other", nodes=()))


def test_a_cluster_founded_with_a_node_twice_is_not_founded() -> None:
    world = World()
    with pytest.raises(NodeExists):
        world.do(FoundCluster(name="c", nodes=(node("a"), node("a"))))
    assert world.state.cluster is None


@pytest.mark.parametrize(
    "command", [node("a"), RemoveNode(node_id=A), DestroyCluster(), AdmitBeat(node_id=A, incarnation=Incarnation(1))]
)
def test_nothing_is_there_before_the_cluster(command: RegisterNode) -> None:
    with pytest.raises(ClusterNotFound):
        World().do(command)


def test_a_node_joins_once() -> None:
    world = World.founded(node("a"))
    with pytest.raises(NodeExists) as refusal:
        world.do(node("a"))
    assert refusal.value.node_id == "a"


def test_a_removed_node_takes_its_endpoint_along() -> None:
    world = World.founded(node("a"))
    world.do(RegisterEndpoint(node_id=A, half=TcpHalf(address="10.0.0.1", port=1)))
    world.do(RemoveNode(node_id=A))
    assert A not in world.state.nodes
    assert A not in world.state.endpoints
    with pytest.raises(NodeNotFound):
        world.do(RemoveNode(node_id=A))


def test_a_target_never_goes_back_when_a_node_leaves_and_returns() -> None:
    world = World.founded(node("a"))
    beat(world, 1)
    before = target_generation(world.state, A)
    world.do(RemoveNode(node_id=A))
    world.do(node("a"))
    assert target_generation(world.state, A) > before


@pytest.mark.parametrize(
    ("joined_as", "after_a_beat"),
    [
        (NodeStatus.JOINING, NodeStatus.ONLINE),
        (NodeStatus.ONLINE, NodeStatus.ONLINE),
        (NodeStatus.OFFLINE, NodeStatus.ONLINE),
        (NodeStatus.DRAINING, NodeStatus.DRAINING),
    ],
)
def test_the_first_beat_brings_a_node_online(joined_as: NodeStatus, after_a_beat: NodeStatus) -> None:
    world = World.founded(node("a", status=joined_as))
    assert beat(world, 1) == (NodeIncarnated,)
    row = world.state.nodes.get(A)
    assert row is not None
    assert (row.status, row.incarnation) == (after_a_beat, 1)


def test_a_beat_that_is_no_news_is_no_event() -> None:
    world = World.founded(node("a"))
    beat(world, 1)
    assert beat(world, 1) == ()


def test_a_silent_node_is_lost_and_returns_by_beating() -> None:
    world = World.founded(node("a"))
    beat(world, 1)
    lost = world.do(GiveUpNode(node_id=A, incarnation=Incarnation(1)))
    assert [type(event) for event in lost] == [NodeLost]
    assert world.do(GiveUpNode(node_id=A, incarnation=Incarnation(1))) == ()
    assert beat(world, 1) == (NodeReturned,)


def test_a_node_may_lend_otherwise_and_keeps_what_is_planned_on_it() -> None:
    world = World.founded(node("a", 4))
    world.do(AdmitBeat(node_id=A, incarnation=Incarnation(1), lend_bytes=4 * STRIPE))
    world.do(PlanRegion(name=RegionName("r"), size_bytes=3 * STRIPE))
    lend_less = AdmitBeat(node_id=A, incarnation=Incarnation(1), lend_bytes=2 * STRIPE)
    assert world.do(lend_less) == (LendingChanged(node_id=A, lend_bytes=2 * STRIPE),)
    assert world.do(lend_less) == ()
    row = world.state.nodes.get(A)
    assert row is not None
    assert (row.reserved_bytes, row.free_bytes) == (3 * STRIPE, 0)


def test_only_the_life_that_fell_silent_is_given_up() -> None:
    world = World.founded(node("a"))
    beat(world, 1)
    beat(world, 2)
    assert world.do(GiveUpNode(node_id=A, incarnation=Incarnation(1))) == ()


def test_a_process_of_an_ended_life_is_refused_however_late_it_beats() -> None:
    world = World.founded(node("a"))
    for incarnation in (1, 2, 3):
        beat(world, incarnation)
    for ended in (1, 2):
        with pytest.raises(IncarnationRetired, match="--name"):
            beat(world, ended)


def test_retired_lives_are_remembered_up_to_a_bound() -> None:
    world = World.founded(node("a"))
    for incarnation in range(1, 40):
        beat(world, incarnation)
    row = world.state.nodes.get(A)
    assert row is not None
    assert row.retired == tuple(range(23, 39))


def test_two_commands_of_one_batch_are_decided_one_after_the_other() -> None:
    world = World.founded()
    first, second, third = world.batch(node("a"), node("a"), RemoveNode(node_id=A))
    assert isinstance(second, NodeExists)
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    assert A not in world.state.nodes


def test_destroying_the_cluster_leaves_nothing_but_the_log() -> None:
    world = World.founded(node("a", 4), node("b"))
    world.do(DestroyCluster())
    state = world.state
    tables = (state.nodes, state.endpoints, state.regions, state.region_ids, state.attachments, state.holdings)
    assert [len(table) for table in tables] == [0] * 6
    assert state.cluster is None
    assert state.ledger is not None
