"""The endpoint seed's bodies: cluster, nodes, endpoints, metrics, pages and health. Unknown fields are ignored."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count, Mebibytes, Name, NodeIdNumber, NodeIdText, Port, Text
from weft.api.bodies.ledger import DaMetrics, StandingName
from weft.model.endpoint import LID_MAX, QUEUE_PAIR_MAX, SEQUENCE_MAX

SeedStatus = Literal["joining", "active", "leaving", "failed"]


class EndpointBody(msgspec.Struct, frozen=True, kw_only=True):
    """How a node can be reached. `transport_type` names the half that is meant; the other half's fields are unread."""

    transport_type: Literal["tcp", "rdma"]
    tcp_addr: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    tcp_port: Port | None = None
    rdma_qpn: Annotated[int, Meta(ge=0, le=QUEUE_PAIR_MAX)] | None = None
    rdma_lid: Annotated[int, Meta(ge=0, le=LID_MAX)] | None = None
    rdma_gid: Annotated[str, Meta(max_length=64)] | None = None
    rdma_psn: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] | None = None


class NodeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node that joins. `lend_bytes` is Weft's own: how much of its memory the cluster may use."""

    node_id: NodeIdNumber | NodeIdText
    hostname: Text
    ip_address: Text
    cpu_count: Count
    memory_mb: Mebibytes
    status: SeedStatus = "joining"
    endpoint: EndpointBody | None = None
    lend_bytes: Count = 0


class ClusterBody(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster and the nodes it begins with."""

    name: Name
    nodes: list[NodeBody] = []


class ClusterCreated(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster was founded. `nodes` is a count."""

    status: Literal["created"] = "created"
    cluster_name: str
    nodes: int
    total_memory_mb: int
    total_vcpus: int


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How a node last found the way to another. `reasons` say why a better transport is not used."""

    node_id: str | int
    transport: str
    rtt_us: float
    tier: str
    moved_bytes: dict[str, int] = {}
    reasons: list[str] = []


class MemberBody(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster, with what it lends, when it was last heard, and how far it found its peers to be."""

    node_id: str | int
    hostname: str
    ip_address: str
    cpu_count: int
    memory_mb: int
    status: SeedStatus
    lend_bytes: int
    free_bytes: int
    incarnation: str | None
    last_beat_ms_ago: int | None
    peers: list[PeerInfo] = []


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster. `nodes` is a count, as the seed has it; the records are `members`."""

    name: str
    nodes: int
    active_nodes: int
    total_memory_mb: int
    total_vcpus: int
    vm_running: bool
    created_at: str
    cluster_id: str
    position: int
    members: list[MemberBody]


class ClusterDestroyedBody(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster is gone."""

    status: Literal["destroyed"] = "destroyed"
    cluster_name: str


class NodeJoined(msgspec.Struct, frozen=True, kw_only=True):
    """The node is in the cluster."""

    status: Literal["joined"] = "joined"
    node_id: str | int
    cluster_nodes: int


class NodeRemovedBody(msgspec.Struct, frozen=True, kw_only=True):
    """The node is no longer in the cluster."""

    status: Literal["removed"] = "removed"
    node_id: str | int
    remaining_nodes: int


class EndpointRegisteredBody(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint is known to the cluster."""

    status: Literal["registered"] = "registered"
    node_id: str | int
    transport_type: Literal["tcp", "rdma"]


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How a node can be reached: the preferred transport, and whatever halves it has. `version` grows with each."""

    transport_type: Literal["tcp", "rdma"]
    tcp_addr: str | None
    tcp_port: int | None
    rdma_qpn: int | None
    rdma_lid: int | None
    rdma_gid: str | None
    rdma_psn: int | None
    version: int


class EndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Every endpoint, by node id."""

    cluster_name: str
    endpoints: dict[str, EndpointInfo]


class MetricsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster has and what its faults cost. The last three are what agents report, 0.0 without."""

    cluster_name: str
    total_nodes: int
    active_nodes: int
    total_memory_mb: int
    total_vcpus: int
    remote_fault_rate: float
    remote_miss_ratio: float
    avg_fault_latency_us: float


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The region an address lies in. Without one the address names no page anybody holds."""

    region: str | None = None


class PageBody(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page lives. It follows from the region's layout by division; there is no table of pages."""

    gpa: str
    region: str | None
    owner_node: str | int | None


RoleInCluster = Literal["writer", "follower", "stopping"]
"""What a coordinator does: it writes the log, follows another that does, or takes no commands any more."""


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the coordinator serves: the seeds' fields together, `status` in the storage seed's words.

    Where no availability layer is configured, none is available, its health and state are None, and its counts zero. So
    with a follower, which looks at no layer: ask the `writer`, the address of whoever wrote last as far as this one has
    followed, up to `position`. A follower that hears of neither log nor writer says `degraded (following)`.
    """

    status: str
    cluster_active: bool
    version: str
    position: int
    role: RoleInCluster = "writer"
    writer: str = ""
    da_available: bool = False
    da_health: str | None = None
    da_state: StandingName | None = None
    metrics: DaMetrics = DaMetrics()
