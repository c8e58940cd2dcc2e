"""The storage seed's door: nodes that store. What nobody said follows from what other doors were told.

zone ← "default" · capacity_gb ← the machine's memory, else 0, which weighs as 1 · addr ← the TCP endpoint, else ""
"""

from weft.api.alike import alike
from weft.api.bodies.storage import StatsBody, StorageNodeBody, StorageNodeInfo
from weft.model.commands import DescribeNode
from weft.model.endpoint import Endpoint
from weft.model.errors import InvalidField
from weft.model.ids import parse_node_id
from weft.model.node import Node, StorageHost
from weft.model.stats import NodeStats

PORT_MAX = 65_535


def node_to_command(body: StorageNodeBody, cluster_name: str) -> DescribeNode:
    """What registering means. Raises `InvalidField` for a port no machine has."""
    if not 1 <= int(body.addr.rpartition(":")[2]) <= PORT_MAX:
        raise InvalidField(f"addr: a port lies in 1 to {PORT_MAX}", field="addr")
    storage = StorageHost(zone=body.zone, addr=body.addr, capacity_gb=body.capacity_gb)
    return DescribeNode(node_id=parse_node_id(body.id, "id"), cluster_name=cluster_name, storage=storage)


def node_to_body(node: Node, endpoint: Endpoint | None) -> StorageNodeInfo:
    """A node by the seed's names."""
    return StorageNodeInfo(
        id=node.node_id,
        zone=node.zone,
        addr=node.storage.addr if node.storage is not None else _endpoint_address(endpoint),
        capacity_gb=node.capacity_gb,
        meta={},
    )


def body_to_stats(body: StatsBody) -> NodeStats:
    """What a node said of how busy it is."""
    return alike(body, NodeStats)


def stats_to_body(stats: NodeStats) -> StatsBody:
    """The same the other way round."""
    return alike(stats, StatsBody)


def _endpoint_address(endpoint: Endpoint | None) -> str:
    if endpoint is None or endpoint.tcp is None:
        return ""
    host, port = endpoint.tcp.address, endpoint.tcp.port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
