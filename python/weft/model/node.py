"""A node: one machine's part in the cluster.

A node is a record with groups of fields, and each door owns a group: the cluster door owns `machine`. What a node
*is* (`Node`) and what somebody said about it (`NodeDescription`) are two things, because only the log may say which
life of the node is the present one.
"""

from enum import StrEnum

import msgspec

from weft.model.ids import Generation, Incarnation, NodeId


class NodeStatus(StrEnum):
    """Where a node is in its life. Suspicion is a view of how long ago it was heard, and never stored."""

    JOINING = "joining"
    ONLINE = "online"
    DRAINING = "draining"
    OFFLINE = "offline"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The fields the cluster door owns."""

    hostname: str
    ip_address: str
    cpu_count: int
    memory_mb: int


class NodeDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a node when it joins."""

    node_id: NodeId
    status: NodeStatus
    machine: Machine
    lend_bytes: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says of a node.

    `incarnation` is None until the first beat: nobody has promised beats for it, so nobody misses them.
    `retired` holds earlier incarnations, newest last, so that a late beat of a dead process is refused.
    `generation` is the sequence number of the last event that changed what this node should hold.
    `reserved_bytes` counts what the present incarnation has been asked to set aside.
    """

    node_id: NodeId
    status: NodeStatus
    machine: Machine
    lend_bytes: int
    reserved_bytes: int
    incarnation: Incarnation | None
    retired: tuple[Incarnation, ...]
    generation: Generation
    joined_at_ms: int

    @property
    def active(self) -> bool:
        """Whether the node counts towards what the cluster has."""
        return self.status is NodeStatus.ONLINE

    @property
    def free_bytes(self) -> int:
        """What the node lends and nothing has been planned on."""
        return max(0, self.lend_bytes - self.reserved_bytes)
