"""The node seed's door: nodes that run engines.

Registering ↔ joining · Online ↔ online, suspect · Draining ↔ draining · Offline ↔ offline
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from weft.api.alike import alike
from weft.api.bodies.pools import (
    BindingInfo,
    CapabilitiesBody,
    GpuBody,
    PoolBody,
    PoolNodeInfo,
    PoolsStatus,
    RegistrationBody,
)
from weft.model.commands import DescribeNode
from weft.model.errors import InvalidField
from weft.model.ids import parse_node_id
from weft.model.node import Capabilities, EngineHost, Gpu, Node, NodeStatus
from weft.model.pool import DEFAULT_REPLICA_ID, PoolSnapshot, Seat

_SPELLING_OF: Final[dict[NodeStatus, PoolsStatus]] = {
    NodeStatus.JOINING: "Registering",
    NodeStatus.ONLINE: "Online",
    NodeStatus.DRAINING: "Draining",
    NodeStatus.OFFLINE: "Offline",
}


def registration_to_command(body: RegistrationBody, cluster_name: str) -> DescribeNode:
    """What registering means. Raises `InvalidField` for an address that is none and for a pool named twice."""
    if len(set(body.pools)) != len(body.pools):
        raise InvalidField("pools: a pool is named twice", field="pools", node_id=body.node_id)
    return DescribeNode(
        node_id=parse_node_id(body.node_id),
        cluster_name=cluster_name,
        engines=EngineHost(
            machine_id=body.machine_id,
            address=_parse_address(body.address, body.node_id),
            pool_ids=tuple(body.pools),
            capabilities=Capabilities(
                gpus=tuple(alike(gpu, Gpu) for gpu in body.capabilities.gpus),
                cpu_cores=body.capabilities.cpu_cores,
                ram_total_bytes=body.capabilities.ram_total_bytes,
            ),
            version=body.version,
        ),
    )


def node_to_body(
    node: Node,
    status: NodeStatus,
    silence_ms: int | None,
    now_ms: int,
    pools: Mapping[Seat, PoolSnapshot],
    bindings: Sequence[BindingInfo],
) -> PoolNodeInfo:
    """A node by the seed's names, with what it last said of its pools."""
    engines = node.engines
    registered = engines.pool_ids if engines is not None else ()
    return PoolNodeInfo(
        node_id=node.node_id,
        machine_id=_machine_id(node),
        address=engines.address if engines is not None else "",
        pools=list(dict.fromkeys((*registered, *sorted(pool_id for pool_id, _ in pools)))),
        capabilities=_capabilities(node),
        status=_SPELLING_OF[status],
        registered_at_ms=node.joined_at_ms,
        last_heartbeat_ms=None if silence_ms is None else now_ms - silence_ms,
        version=engines.version if engines is not None else None,
        last_heartbeat_age_ms=silence_ms,
        pool_status=[pool_to_body(pools[seat]) for seat in sorted(pools)],
        bindings=list(bindings),
    )


def body_to_pool(body: PoolBody) -> PoolSnapshot:
    """What a node said of a pool. Free slots are never more than there are."""
    return PoolSnapshot(
        pool_id=body.pool_id,
        ready=body.ready,
        draining=body.draining,
        slots_free=min(body.slots_free, body.slots_total),
        slots_total=body.slots_total,
        vram_free_bytes=body.vram_free_bytes,
        engine=body.engine,
        models_available=tuple(body.models_available),
        devices=tuple(body.devices) if body.devices is not None else None,
        replica_id=body.replica_id or DEFAULT_REPLICA_ID,
        url=body.url,
    )


def pool_to_body(pool: PoolSnapshot) -> PoolBody:
    """The same the other way round."""
    return PoolBody(
        pool_id=pool.pool_id,
        ready=pool.ready,
        draining=pool.draining,
        slots_free=pool.slots_free,
        slots_total=pool.slots_total,
        vram_free_bytes=pool.vram_free_bytes,
        engine=pool.engine,
        models_available=list(pool.models_available),
        devices=list(pool.devices) if pool.devices is not None else None,
        replica_id=pool.replica_id,
        url=pool.url,
    )


def status_of(spelling: str | None) -> PoolsStatus | None:
    """A status asked for, in the seed's spelling or in small letters."""
    return None if spelling is None else msgspec.convert(spelling.capitalize(), PoolsStatus)


def _parse_address(address: str, node_id: str) -> str:
    """The URL of a node. host:port is what the seed's specification says and a URL what its example does."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        raise InvalidField(
            "address: an address is an http or https URL, or host:port", field="address", node_id=node_id
        )
    return url.rstrip("/")


def _machine_id(node: Node) -> str:
    if node.engines is not None:
        return node.engines.machine_id
    return node.machine.hostname if node.machine is not None else node.node_id


def _capabilities(node: Node) -> CapabilitiesBody:
    said = node.engines.capabilities if node.engines is not None else Capabilities()
    machine = node.machine
    return CapabilitiesBody(
        gpus=[alike(gpu, GpuBody) for gpu in said.gpus],
        cpu_cores=said.cpu_cores if said.cpu_cores is not None or machine is None else machine.cpu_count,
        ram_total_bytes=(
            said.ram_total_bytes if said.ram_total_bytes is not None or machine is None else machine.memory_mb << 20
        ),
    )
