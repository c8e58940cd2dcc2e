"""The endpoint seed's door: its JSON names and statuses on one side, commands and records on the other.

joining ↔ joining · active ↔ online · leaving ↔ draining · failed ↔ offline
"""

from collections.abc import Sequence
from typing import Final

from weft.api.bodies.beat import PeerReport
from weft.api.bodies.cluster import (
    ClusterBody,
    EndpointBody,
    EndpointInfo,
    MemberBody,
    NodeBody,
    PeerInfo,
    SeedStatus,
)
from weft.model.commands import FoundCluster, RegisterEndpoint, RegisterNode
from weft.model.endpoint import Endpoint, EndpointHalf, RdmaHalf, TcpHalf, parse_gid, spell_gid
from weft.model.errors import BadAddress, InvalidField
from weft.model.ids import NodeId, parse_node_id, spell_incarnation, spell_node_id
from weft.model.node import Machine, Node, NodeDescription, NodeStatus

_STATUS_OF: Final[dict[SeedStatus, NodeStatus]] = {
    "joining": NodeStatus.JOINING,
    "active": NodeStatus.ONLINE,
    "leaving": NodeStatus.DRAINING,
    "failed": NodeStatus.OFFLINE,
}
_SPELLING_OF: Final[dict[NodeStatus, SeedStatus]] = {status: spelling for spelling, status in _STATUS_OF.items()}

_UNDESCRIBED: Final = Machine(hostname="", ip_address="", cpu_count=0, memory_mb=0)


def cluster_to_command(body: ClusterBody) -> FoundCluster:
    """What founding this cluster means."""
    return FoundCluster(name=body.name, nodes=tuple(node_to_command(node) for node in body.nodes))


def node_to_command(body: NodeBody) -> RegisterNode:
    """What this node's joining means."""
    machine = Machine(
        hostname=body.hostname, ip_address=body.ip_address, cpu_count=body.cpu_count, memory_mb=body.memory_mb
    )
    node = NodeDescription(
        node_id=parse_node_id(body.node_id),
        status=_STATUS_OF[body.status],
        machine=machine,
        lend_bytes=body.lend_bytes,
    )
    return RegisterNode(node=node, endpoint=_to_half(body.endpoint) if body.endpoint is not None else None)


def endpoint_to_command(node_id: NodeId, body: EndpointBody) -> RegisterEndpoint:
    """What registering this endpoint means."""
    return RegisterEndpoint(node_id=node_id, half=_to_half(body))


def node_to_body(
    node: Node, status: NodeStatus, last_beat_ms_ago: int | None, peers: Sequence[PeerReport] = ()
) -> MemberBody:
    """A node by the seed's names, with the status it has now. What other doors were told counts where this was not."""
    machine = node.machine or _UNDESCRIBED
    return MemberBody(
        node_id=spell_node_id(node.node_id),
        hostname=machine.hostname or (node.engines.machine_id if node.engines is not None else ""),
        ip_address=machine.ip_address,
        cpu_count=node.cpu_count,
        memory_mb=node.memory_mb,
        status=_SPELLING_OF[status],
        lend_bytes=node.lend_bytes,
        free_bytes=node.free_bytes,
        incarnation=spell_incarnation(node.incarnation) if node.incarnation is not None else None,
        last_beat_ms_ago=last_beat_ms_ago,
        peers=[
            PeerInfo(
                node_id=spell_node_id(parse_node_id(peer.node_id)),
                transport=peer.transport,
                rtt_us=peer.rtt_us,
                tier=peer.tier,
                moved_bytes=peer.moved_bytes,
                reasons=peer.reasons,
            )
            for peer in peers
        ],
    )


def endpoint_to_body(endpoint: Endpoint) -> EndpointInfo:
    """An endpoint by the seed's names: both halves as far as there are two."""
    tcp, rdma = endpoint.tcp, endpoint.rdma
    return EndpointInfo(
        transport_type=endpoint.preferred.value,
        tcp_addr=tcp.address if tcp is not None else None,
        tcp_port=tcp.port if tcp is not None else None,
        rdma_qpn=rdma.queue_pair if rdma is not None else None,
        rdma_lid=rdma.lid if rdma is not None else None,
        rdma_gid=spell_gid(rdma.gid) if rdma is not None else None,
        rdma_psn=rdma.packet_sequence if rdma is not None else None,
        version=endpoint.version,
    )


def parse_address(text: str) -> int:
    """A guest physical address, hexadecimal after 0x or decimal. Raises `BadAddress`."""
    try:
        address = int(text, 16) if text[:2] in ("0x", "0X") else int(text, 10)
    except ValueError as error:
        raise BadAddress(f"an address is decimal, or hexadecimal after 0x; {text!r} is neither", field="gpa") from error
    if not 0 <= address < 2**64:
        raise BadAddress("an address lies in 64 bits", field="gpa")
    return address


def _to_half(body: EndpointBody) -> EndpointHalf:
    """The half the body names, complete. A half with a hole in it could not be connected to."""
    if body.transport_type == "tcp":
        if body.tcp_addr is None:
            raise _missing("tcp_addr", "tcp")
        if body.tcp_port is None:
            raise _missing("tcp_port", "tcp")
        return TcpHalf(address=body.tcp_addr, port=body.tcp_port)
    if body.rdma_qpn is None:
        raise _missing("rdma_qpn", "rdma")
    if body.rdma_lid is None:
        raise _missing("rdma_lid", "rdma")
    if body.rdma_gid is None:
        raise _missing("rdma_gid", "rdma")
    if body.rdma_psn is None:
        raise _missing("rdma_psn", "rdma")
    return RdmaHalf(
        queue_pair=body.rdma_qpn,
        lid=body.rdma_lid,
        gid=parse_gid(body.rdma_gid),
        packet_sequence=body.rdma_psn,
    )


def _missing(field: str, transport: str) -> InvalidField:
    return InvalidField(f"an endpoint of type {transport} needs {field}", field=field)
