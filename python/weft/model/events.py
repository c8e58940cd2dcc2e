"""Events: facts, in the past tense. They are all the log holds, and all that `apply` reads.

An event says what became true in whole, so that applying it needs no rule: limits were checked when it was decided.
It holds no secret. A field may be added with a default; one is never renamed, and a kind never changes its meaning,
because old logs are replayed by new code.

Events, and the records they become, are frozen trees of values, so no cycle can go through one; `gc=False` says so, and
replaying a long log does not have the collector look at each of them again and again.
"""

import msgspec

from weft.model.attachment import Closing, Mode
from weft.model.endpoint import EndpointHalf
from weft.model.ids import AttachmentId, ClusterId, Generation, Incarnation, NodeId, RegionId, RegionName, Term
from weft.model.node import EngineHost, Machine, NodeDescription, StorageHost
from weft.model.object import ObjectHash
from weft.model.policy import LedgerPolicy
from weft.model.region import Layout
from weft.model.scheduling import Weights


class LedgerOpened(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """The first event of every log."""

    cluster_id: ClusterId
    policy: LedgerPolicy


class TermOpened(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A writer began; every writer of an earlier term has ended, whether it knows or not.

    `address` is the URL at which those who follow send what only a writer answers; empty where nobody can follow.
    """

    term: Term
    writer: str
    address: str = ""


class ClusterFounded(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """The cluster has a name. The nodes it began with follow as events of their own."""

    name: str
    at_ms: int


class ClusterDestroyed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """The cluster and all its nodes, endpoints, regions and attachments are gone."""

    name: str


class NodeRegistered(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node joined."""

    node: NodeDescription
    at_ms: int


class NodeDescribed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A door said anew what it owns of a node. A group that is None is left as it was."""

    node_id: NodeId
    machine: Machine | None = None
    engines: EngineHost | None = None
    storage: StorageHost | None = None


class NodeAppeared(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node was heard for the first time, by a beat that names no life. It is watched from then on."""

    node_id: NodeId


class NodeDrained(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node is to get nothing new."""

    node_id: NodeId


class NodeResumed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A drained node may be given work again."""

    node_id: NodeId


class NodeRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node left, and its endpoint with it. What it held is lost."""

    node_id: NodeId


class NodeIncarnated(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node began a new life. Whatever an earlier one held is lost."""

    node_id: NodeId
    incarnation: Incarnation


class NodeLost(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node has not been heard for too long. It may still hold what it held."""

    node_id: NodeId


class NodeReturned(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A lost node was heard again, in the same life."""

    node_id: NodeId


class LendingChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node lends another amount than before. What is planned on it stays, also when that is more."""

    node_id: NodeId
    lend_bytes: int


class EndpointRegistered(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A node can be reached this way and prefers it."""

    node_id: NodeId
    half: EndpointHalf


class RegionPlanned(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A region has a name and a layout, and its lenders have been asked."""

    region_id: RegionId
    name: RegionName
    size_bytes: int
    reserved_bytes: int
    layout: Layout
    at_ms: int


class RegionReady(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Every extent is backed by memory."""

    region_id: RegionId


class RegionFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A planned region could not be had. Its name stays taken until it is deleted."""

    region_id: RegionId
    error: str


class ExtentsLost(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Part of a region's bytes is gone for good."""

    region_id: RegionId
    indices: tuple[int, ...]
    error: str


class RegionSealed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Nobody writes to the region any more."""

    region_id: RegionId


class RegionDeletionBegun(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """The region's lenders have been asked to release it."""

    region_id: RegionId


class RegionRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Every lender that lives has released the region, and its name is free."""

    region_id: RegionId


class AttachmentOpened(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A process may use the region, at this generation."""

    attachment_id: AttachmentId
    region_id: RegionId
    mode: Mode
    holder: str
    generation: Generation
    at_ms: int


class AttachmentClosed(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A process may no longer use the region."""

    attachment_id: AttachmentId
    reason: Closing


class SchedulerConfigured(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Nodes are weighed this way."""

    weights: Weights


class ObjectRegistered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An object is in the books. Nobody has said yet that they hold it."""

    object_hash: ObjectHash
    size_bytes: int
    replicas_wanted: int
    at_ms: int


class ObjectDeleted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """There is no such object any more. The nodes that hold copies of it have yet to let go of them."""

    object_hash: ObjectHash


class ReplicaAdded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node said that it holds a copy."""

    object_hash: ObjectHash
    node_id: NodeId


class ReplicaRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node's copy is gone: missing, corrupt, dropped because it was one too many, or marked so by somebody."""

    object_hash: ObjectHash
    node_id: NodeId
    reason: str


Event = (
    LedgerOpened
    | TermOpened
    | ClusterFounded
    | ClusterDestroyed
    | NodeRegistered
    | NodeDescribed
    | NodeAppeared
    | NodeDrained
    | NodeResumed
    | NodeRemoved
    | NodeIncarnated
    | NodeLost
    | NodeReturned
    | LendingChanged
    | EndpointRegistered
    | RegionPlanned
    | RegionReady
    | RegionFailed
    | ExtentsLost
    | RegionSealed
    | RegionDeletionBegun
    | RegionRemoved
    | AttachmentOpened
    | AttachmentClosed
    | SchedulerConfigured
    | ObjectRegistered
    | ObjectDeleted
    | ReplicaAdded
    | ReplicaRemoved
)
