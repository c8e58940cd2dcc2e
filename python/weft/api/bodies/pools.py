"""The node seed's bodies: nodes that register at the pools door, beat, and are listed. Unknown fields are ignored.

Nodes of Weft describe their pools in the same shape (`PoolBody`) in the beats they send to their own route.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count, Name, NodeIdText, PositiveCount, Text, whole
from weft.model.policy import GPUS_MAX, MODELS_MAX, POOLS_MAX

PoolIdText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.-]{1,256}", "1 to 256 letters, digits, dots, dashes or underscores"))
]
UrlText = Annotated[
    str, Meta(pattern=whole("https?://[^/\\s]+.*", "an http or https URL with a host"), max_length=2_048)
]
AddressText = Annotated[
    str, Meta(pattern=whole("[!-~]{1,2048}", "an http or https URL, or host:port, of up to 2048 letters"))
]
PoolsStatus = Literal["Registering", "Online", "Draining", "Offline", "Failed"]


class GpuBody(msgspec.Struct, frozen=True, kw_only=True):
    """One device."""

    device_id: Count
    name: Text
    vram_total_bytes: PositiveCount
    compute_capability: Text | None = None


class CapabilitiesBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine can do."""

    gpus: Annotated[list[GpuBody], Meta(max_length=GPUS_MAX)] = []
    cpu_cores: Count | None = None
    ram_total_bytes: Count | None = None


class RegistrationBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node that registers. `address` is a URL, or host:port for one that speaks plain HTTP."""

    node_id: NodeIdText
    machine_id: Name
    address: AddressText
    pools: Annotated[list[PoolIdText], Meta(max_length=POOLS_MAX)] = []
    capabilities: CapabilitiesBody = msgspec.field(default_factory=CapabilitiesBody)
    version: Text | None = None


class RegistrationReply(msgspec.Struct, frozen=True, kw_only=True):
    """The node is in the registry."""

    success: Literal[True] = True
    message: str
    node_id: str


class PoolBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of one replica of a pool. One that names no `replica_id` is the only one there is.

    `url` is where the replica's engine answers and an adapter binds to; `devices` None means that nobody said.
    """

    pool_id: PoolIdText
    ready: bool
    draining: bool = False
    slots_free: Count = 0
    slots_total: Count = 0
    vram_free_bytes: Count = 0
    engine: Text | None = None
    models_available: Annotated[list[Text], Meta(max_length=MODELS_MAX)] = []
    devices: Annotated[list[Text], Meta(max_length=GPUS_MAX)] | None = None
    replica_id: PoolIdText | None = None
    url: UrlText | None = None


class HeartbeatBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node lives, and its pools are as they are. `timestamp` is the node's own clock: only a guard goes by it."""

    timestamp: Text | None = None
    pools: Annotated[list[PoolBody], Meta(max_length=POOLS_MAX)] = []


class HeartbeatReply(msgspec.Struct, frozen=True, kw_only=True):
    """When the next one is due: often enough that two may be lost."""

    success: Literal[True] = True
    next_heartbeat_ms: int


class BindingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter bound to an engine that is ready."""

    pool: str
    replica: str
    url: str
    bound_at: str


class PoolNodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the registry shows it. `last_heartbeat_age_ms` None: nobody promised beats for it."""

    node_id: str
    machine_id: str
    address: str
    pools: list[str]
    capabilities: CapabilitiesBody
    status: PoolsStatus
    registered_at_ms: int
    last_heartbeat_ms: int | None
    version: str | None
    last_heartbeat_age_ms: int | None
    pool_status: list[PoolBody]
    bindings: list[BindingInfo]


class PoolNodeList(msgspec.Struct, frozen=True, kw_only=True):
    """Every node, whatever its status, in order of id."""

    nodes: list[PoolNodeInfo]
    count: int


class StatusQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The status to list only."""

    status: PoolsStatus | Literal["registering", "online", "draining", "offline", "failed"] | None = None


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A bound engine and whose it is: a node's, or None for one that runs beside the coordinator."""

    node_id: str | None
    pool: str
    replica: str
    url: str
    bound_at: str


class EngineList(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound engine."""

    engines: list[EngineInfo]
