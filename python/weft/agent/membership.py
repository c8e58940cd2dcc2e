"""Coming into the cluster, as a flow: found it or find it, join or come back, say where the memory is.

The coordinator never creates a cluster by itself: the first node founds it. Two nodes may be first at once; one of them
is told that the cluster exists, which is what it wanted, and joins. Each step may be repeated without harm.
"""

import contextlib

from weft import __version__
from weft.agent.cloud import CloudSettings
from weft.agent.settings import NodeSettings
from weft.api.bodies.beat import BeatBody, Observations
from weft.api.bodies.cluster import ClusterInfo, NodeBody
from weft.api.bodies.pools import CapabilitiesBody, RegistrationBody
from weft.client.coordinator import Coordinator
from weft.client.flow import Flow
from weft.dataplane import RdmaRecord
from weft.model.errors import ClusterExists, ClusterNotFound, NodeExists
from weft.model.ids import Incarnation, spell_incarnation


def find_or_found(coordinator: Coordinator, name: str) -> Flow[ClusterInfo]:
    """The cluster, founded by this node when there is none."""
    try:
        return (yield from coordinator.cluster())
    except ClusterNotFound:
        with contextlib.suppress(ClusterExists):
            yield from coordinator.found(name)
    return (yield from coordinator.cluster())


def join(
    coordinator: Coordinator,
    settings: NodeSettings,
    port: int,
    new_life: Incarnation | None = None,
    rdma: RdmaRecord | None = None,
) -> Flow[bool]:
    """Joins with the memory listening at `port`; False when the node was there already, from an earlier life.

    The record an earlier life left is kept. Its extents are not: the first beat of this life says that they are lost,
    and how much is lent from now on. A `new_life` says so before it takes over the endpoint: another process that runs
    under this name keeps both, and this one gets IncarnationRetired. In the cloud profile the way in is the pools door,
    where a node that is there already is described anew.
    """
    fresh = True
    if settings.cloud is not None and settings.cloud.registers:
        yield from coordinator.register_pools(_registration(settings, settings.cloud))
        yield from _begin_life(coordinator, settings, new_life)
        yield from publish(coordinator, settings, port, rdma)
        return fresh
    try:
        yield from coordinator.join(
            NodeBody(
                node_id=settings.name,
                hostname=settings.hostname,
                ip_address=settings.host,
                cpu_count=settings.cpu_count,
                memory_mb=settings.memory_bytes >> 20,
                status="active",
                lend_bytes=settings.lend_bytes,
            )
        )
    except NodeExists:
        fresh = False
        yield from _begin_life(coordinator, settings, new_life)
    yield from publish(coordinator, settings, port, rdma)
    return fresh


def leave(coordinator: Coordinator, settings: NodeSettings, patience_s: float) -> Flow[None]:
    """Leaves through the door the node came in by."""
    if settings.cloud is not None and settings.cloud.registers:
        yield from coordinator.deregister_pools(settings.name, patience_s)
    else:
        yield from coordinator.leave(settings.name, patience_s)


def publish(coordinator: Coordinator, settings: NodeSettings, port: int, rdma: RdmaRecord | None) -> Flow[None]:
    """Says where the memory is. What is said last is preferred, and what was said before stays the way back."""
    yield from coordinator.register_endpoint(settings.name, settings.host, port)
    if rdma is not None:
        yield from coordinator.register_rdma(settings.name, rdma.queue_pair, rdma.lid, rdma.gid, rdma.packet_sequence)


def _begin_life(coordinator: Coordinator, settings: NodeSettings, new_life: Incarnation | None) -> Flow[None]:
    """Says that a life has begun, where one has."""
    if new_life is not None:
        seen = Observations(lend_bytes=settings.lend_bytes)
        body = BeatBody(incarnation=spell_incarnation(new_life), generation=0, observations=seen)
        yield from coordinator.beat(settings.name, body)


def _registration(settings: NodeSettings, cloud: CloudSettings) -> RegistrationBody:
    return RegistrationBody(
        node_id=settings.name,
        machine_id=cloud.machine_id,
        address=cloud.address,
        pools=list(cloud.pool_ids),
        capabilities=CapabilitiesBody(cpu_cores=settings.cpu_count, ram_total_bytes=settings.memory_bytes),
        version=__version__,
    )
