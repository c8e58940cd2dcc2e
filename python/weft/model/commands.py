"""Commands: what somebody wants, as data. They are checked against the state and become events, or are refused.

A command carries only what its caller said or a shell saw, never a time or a minted id: those come beside it in the
`Moment` it is decided in, so that the same request sent twice is the same command.
"""

import msgspec

from weft.model.attachment import Closing, Mode
from weft.model.endpoint import EndpointHalf
from weft.model.ids import AttachmentId, Incarnation, NodeId, RegionId, RegionName
from weft.model.node import EngineHost, NodeDescription, StorageHost
from weft.model.object import ObjectHash
from weft.model.policy import LedgerPolicy
from weft.model.scheduling import Weights


class OpenLedger(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write the first event there is."""

    policy: LedgerPolicy


class OpenTerm(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Begin to write: from here on, an earlier writer's batches are refused. `address` is where it is reached."""

    writer: str
    address: str = ""


class FoundCluster(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Found the cluster with the nodes it begins with."""

    name: str
    nodes: tuple["RegisterNode", ...]


class DestroyCluster(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Forget the cluster and everything in it."""


class RegisterNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take a node in, with the endpoint it may already have."""

    node: NodeDescription
    endpoint: EndpointHalf | None = None


class DescribeNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Say anew what one door owns of a node, which may not be there yet.

    The seeds behind these doors know no clusters: the first node founds one, under `cluster_name`.
    """

    node_id: NodeId
    cluster_name: str
    engines: EngineHost | None = None
    storage: StorageHost | None = None


class DrainNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Give a node nothing new from now on."""

    node_id: NodeId


class ResumeNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Give a drained node work again."""

    node_id: NodeId


class PurgeNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Forget a node that has been offline for so long that nobody expects it back."""

    node_id: NodeId


class RemoveNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Let a node go, with its endpoint and what it held."""

    node_id: NodeId


class RegisterEndpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Replace one half of a node's endpoint and prefer it."""

    node_id: NodeId
    half: EndpointHalf


class AdmitBeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node was heard. Becomes events when that is news: a new life, one that was given up, or another amount lent.

    `lend_bytes` None means that the node did not say. `incarnation` None is the pools door's beat, which names no life.
    `draining` says that the node itself wants nothing new: it is about to leave.
    """

    node_id: NodeId
    incarnation: Incarnation | None
    lend_bytes: int | None = None
    draining: bool = False


class GiveUpNode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node has been silent for too long in this life of it; None when it never named one."""

    node_id: NodeId
    incarnation: Incarnation | None


class PlanRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Lay a region out over what is lent. `lenders_max` None means as many as are good."""

    name: RegionName
    size_bytes: int
    lenders_max: int | None = None


class ConfirmRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Every extent of a planned region has been backed."""

    region_id: RegionId


class FailRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A planned region cannot be had."""

    region_id: RegionId
    error: str


class LoseExtents(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A lender in this life of it no longer has these extents."""

    region_id: RegionId
    node_id: NodeId
    incarnation: Incarnation
    indices: tuple[int, ...]
    error: str


class SealRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Let nobody write to a region any more."""

    name: RegionName


class DeleteRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take a region from those who lend it. `force` closes its attachments first."""

    name: RegionName
    force: bool = False


class FinishRegion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """These lenders have released a region that is being deleted."""

    region_id: RegionId
    released: tuple[NodeId, ...]


class OpenAttachment(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Map a region. `takeover` closes an exclusive attachment that is in the way."""

    region: RegionName
    mode: Mode
    holder: str
    takeover: bool = False


class CloseAttachment(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Unmap a region."""

    region: RegionName
    attachment_id: AttachmentId
    reason: Closing


class ConfigureScheduler(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Weigh nodes otherwise from now on."""

    weights: Weights


class RegisterObject(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put an object into the books."""

    object_hash: ObjectHash
    size_bytes: int
    replicas_wanted: int


class DeleteObject(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Let there be no such object any more, and free the room its copies take."""

    object_hash: ObjectHash


class MarkMissing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Somebody says that a node does not hold a copy that it should."""

    object_hash: ObjectHash
    node_id: NodeId


class MarkHealed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Somebody says that a node holds a copy."""

    object_hash: ObjectHash
    node_id: NodeId


class ReportReplicas(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node in this life of it says which copies it holds, and which it no longer holds and why."""

    node_id: NodeId
    incarnation: Incarnation
    held: tuple[ObjectHash, ...] = ()
    gone: tuple[tuple[ObjectHash, str], ...] = ()


Command = (
    OpenLedger
    | OpenTerm
    | FoundCluster
    | DestroyCluster
    | RegisterNode
    | DescribeNode
    | DrainNode
    | ResumeNode
    | PurgeNode
    | RemoveNode
    | RegisterEndpoint
    | AdmitBeat
    | GiveUpNode
    | PlanRegion
    | ConfirmRegion
    | FailRegion
    | LoseExtents
    | SealRegion
    | DeleteRegion
    | FinishRegion
    | OpenAttachment
    | CloseAttachment
    | ConfigureScheduler
    | RegisterObject
    | DeleteObject
    | MarkMissing
    | MarkHealed
    | ReportReplicas
)
