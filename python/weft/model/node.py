"""A node: one machine's part in the cluster.

A node is a record with groups of fields, and each door owns a group: the cluster door `machine`, the pools door
`engines`, the storage door `storage`. A door replaces its own group and leaves the others, and what a door must show
and nobody gave follows from the other groups. What a node *is* (`Node`) and what somebody said about it
(`NodeDescription`) are two things, because only the log may say which life of the node is the present one.
"""

from enum import StrEnum
from typing import Final

import msgspec

from weft.model.ids import Generation, Incarnation, NodeId

DEFAULT_ZONE: Final = "default"
"""The zone of a node nobody gave one."""


class NodeStatus(StrEnum):
    """Where a node is in its life. Suspicion is a view of how long ago it was heard, and never stored."""

    JOINING = "joining"
    ONLINE = "online"
    DRAINING = "draining"
    OFFLINE = "offline"


class Machine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields the cluster door owns."""

    hostname: str
    ip_address: str
    cpu_count: int
    memory_mb: int


class Gpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One device of a machine."""

    device_id: int
    name: str
    vram_total_bytes: int
    compute_capability: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a machine can do. None means that it did not say, which is not the same as having none."""

    gpus: tuple[Gpu, ...] = ()
    cpu_cores: int | None = None
    ram_total_bytes: int | None = None


class EngineHost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields the pools door owns: what a node promises to run, and that it promises to beat."""

    machine_id: str
    address: str
    pool_ids: tuple[str, ...]
    capabilities: Capabilities
    version: str | None = None


class StorageHost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields the storage door owns."""

    zone: str
    addr: str
    capacity_gb: int


class NodeDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a caller says of a node when it joins. A group that is None belongs to a door nobody came through."""

    node_id: NodeId
    status: NodeStatus
    machine: Machine | None
    lend_bytes: int
    engines: EngineHost | None = None
    storage: StorageHost | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the log says of a node.

    `incarnation` is None until the first beat: nobody has promised beats for it, so nobody misses them.
    `retired` holds earlier incarnations, newest last, so that a late beat of a dead process is refused.
    `generation` is the sequence number of the last event that changed what this node should hold.
    `reserved_bytes` counts what the present incarnation has been asked to set aside.
    `drained` says that the node is to get nothing new. It outlives a silence, which `status` alone would not.
    `appeared` says that a beat was heard which names no life, and that there are to be more of them.
    """

    node_id: NodeId
    status: NodeStatus
    machine: Machine | None
    lend_bytes: int
    reserved_bytes: int
    incarnation: Incarnation | None
    retired: tuple[Incarnation, ...]
    generation: Generation
    joined_at_ms: int
    engines: EngineHost | None = None
    storage: StorageHost | None = None
    drained: bool = False
    appeared: bool = False

    @property
    def active(self) -> bool:
        """Whether the node counts towards what the cluster has."""
        return self.status is NodeStatus.ONLINE

    @property
    def free_bytes(self) -> int:
        """What the node lends and nothing has been planned on."""
        return max(0, self.lend_bytes - self.reserved_bytes)

    @property
    def is_watched(self) -> bool:
        """Whether beats were promised: by beating, in some life or without one, or by registering at the pools door."""
        return self.incarnation is not None or self.engines is not None or self.appeared

    @property
    def memory_mb(self) -> int:
        """The machine's memory, by whichever door said it; 0 when none did."""
        if self.machine is not None:
            return self.machine.memory_mb
        ram_bytes = self.engines.capabilities.ram_total_bytes if self.engines is not None else None
        return (ram_bytes or 0) >> 20

    @property
    def cpu_count(self) -> int:
        """The machine's processors, by whichever door said it; 0 when none did."""
        if self.machine is not None:
            return self.machine.cpu_count
        return (self.engines.capabilities.cpu_cores if self.engines is not None else None) or 0

    @property
    def zone(self) -> str:
        """Which part of the world the node fails together with."""
        return self.storage.zone if self.storage is not None else DEFAULT_ZONE

    @property
    def capacity_gb(self) -> int:
        """What the node can store: as it said at the storage door, else as much as it has memory."""
        return self.storage.capacity_gb if self.storage is not None else self.memory_mb >> 10
