"""Endpoints: two halves, one preferred, and a version that tells of every change."""

import pytest

from tests.worlds import World, node
from weft.core.holding import target_generation
from weft.model.commands import AdmitBeat, RegisterEndpoint
from weft.model.endpoint import EndpointHalf, RdmaHalf, TcpHalf, TransportType
from weft.model.errors import NodeNotFound
from weft.model.ids import Incarnation, NodeId

A, B = NodeId("a"), NodeId("b")
TCP = TcpHalf(address="10.0.0.1", port=50051)
RDMA = RdmaHalf(queue_pair=1, lid=2, gid=bytes(16), packet_sequence=3)


@pytest.mark.parametrize(
    ("halves", "preferred", "tcp", "rdma"),
    [
        ([TCP], TransportType.TCP, TCP, None),
        ([RDMA], TransportType.RDMA, None, RDMA),
        ([TCP, RDMA], TransportType.RDMA, TCP, RDMA),
        ([TCP, RDMA, TCP], TransportType.TCP, TCP, RDMA),
        ([TCP, TCP], TransportType.TCP, TCP, None),
    ],
)
def test_a_half_is_replaced_and_preferred_and_the_other_stays(
    halves: list[EndpointHalf], preferred: TransportType, tcp: TcpHalf | None, rdma: RdmaHalf | None
) -> None:
    world = World.founded(node("a"))
    for half in halves:
        world.do(RegisterEndpoint(node_id=A, half=half))
    endpoint = world.state.endpoints.get(A)
    assert endpoint is not None
    assert (endpoint.preferred, endpoint.tcp, endpoint.rdma) == (preferred, tcp, rdma)
    assert endpoint.version == len(halves)


def test_an_endpoint_needs_its_node() -> None:
    with pytest.raises(NodeNotFound):
        World.founded().do(RegisterEndpoint(node_id=A, half=TCP))


def test_a_new_endpoint_changes_everybody_s_target() -> None:
    world = World.founded(node("a"), node("b"))
    before = target_generation(world.state, B)
    world.do(RegisterEndpoint(node_id=A, half=TCP))
    assert target_generation(world.state, B) > before


def beat(world: World, life: int) -> None:
    world.do(AdmitBeat(node_id=A, incarnation=Incarnation(life)))


def test_queue_pairs_end_with_the_life_that_registered_them_and_where_it_listened_stays() -> None:
    world = World.founded(node("a"), node("b"))
    for half in (TCP, RDMA):
        world.do(RegisterEndpoint(node_id=A, half=half))
    beat(world, 1)
    endpoint = world.state.endpoints.get(A)
    assert endpoint is not None
    assert endpoint.rdma == RDMA, "the first beat of the life that registered ends nothing"
    before, generation = endpoint.version, target_generation(world.state, B)
    beat(world, 2)
    endpoint = world.state.endpoints.get(A)
    assert endpoint is not None
    assert (endpoint.preferred, endpoint.tcp, endpoint.rdma) == (TransportType.TCP, TCP, None)
    assert endpoint.version == before + 1
    assert target_generation(world.state, B) > generation, "peers hear of it"


def test_a_record_of_nothing_but_an_ended_life_s_queue_pair_is_gone() -> None:
    world = World.founded(node("a"))
    beat(world, 1)
    world.do(RegisterEndpoint(node_id=A, half=RDMA))
    beat(world, 2)
    assert world.state.endpoints.get(A) is None
