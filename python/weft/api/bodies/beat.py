"""A beat and its answer. Unknown fields are refused: both ends are Weft's own."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import (
    Count,
    IncarnationText,
    NodeIdText,
    ObjectHashText,
    RegionIdText,
    Sentence,
    Text,
    WaitMs,
)
from weft.api.bodies.pools import PoolBody
from weft.model.policy import OBJECT_REPORTS_MAX, POOLS_MAX, REPLICA_COUNT_MAX, REPORT_COUNT_MAX, TRANSPORTS_MAX


class ExtentReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One extent a node holds, or could not."""

    region_id: RegionIdText
    index: Count
    state: Literal["ready", "failed"]
    error: Sentence | None = None


class PeerReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node reaches another: by what, how far it is, how much moved by each, and why not by something better."""

    node_id: NodeIdText
    transport: Text
    rtt_us: float
    tier: Text
    moved_bytes: Annotated[dict[Text, Count], Meta(max_length=TRANSPORTS_MAX)] = {}
    reasons: Annotated[list[Sentence], Meta(max_length=TRANSPORTS_MAX)] = []


class FindingReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What became true of one object at a node. `doubted` are nodes whose copy it found to be wrong."""

    hash: ObjectHashText
    state: Literal["held", "missing", "corrupt", "dropped", "failed"]
    error: Sentence | None = None
    doubted: Annotated[list[NodeIdText], Meta(max_length=REPLICA_COUNT_MAX)] = []


class StoreReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node says of the objects it keeps: what changed since the last beat that was answered, and how much room.

    `plan` is the generation of the newest plan it has. `inventory` is the number under which it was last asked for
    everything it holds, and `complete` says that with this beat it has told all of that.
    """

    plan: Count = 0
    used_bytes: Count
    free_bytes: Count
    inventory: Count = 0
    complete: bool = False
    findings: Annotated[list[FindingReport], Meta(max_length=OBJECT_REPORTS_MAX)] = []


class Observations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node saw. `extents` is the whole list of what it holds, not what changed.

    `lend_bytes` is what it lends in this life, where that is no longer what it joined with. `pools` is the whole list
    of its engine pools; None means that it does not speak of any. `draining` says that it is about to leave.
    """

    lend_bytes: Count | None = None
    draining: bool = False
    pools: Annotated[list[PoolBody], Meta(max_length=POOLS_MAX)] | None = None
    reserved_bytes: Count = 0
    extents: Annotated[list[ExtentReport], Meta(max_length=REPORT_COUNT_MAX)] = []
    peers: Annotated[list[PeerReport], Meta(max_length=REPORT_COUNT_MAX)] = []
    counters: Annotated[dict[Text, Count], Meta(max_length=256)] = {}
    store: StoreReport | None = None


class BeatBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node says it lives, which version of its target it holds, and how long it will wait for another."""

    incarnation: IncarnationText
    generation: Count
    wait_ms: WaitMs = 0
    observations: Observations = msgspec.field(default_factory=Observations)


class TargetExtent(msgspec.Struct, frozen=True, kw_only=True):
    """An extent the node should hold. `generation` is the lowest attachment generation to accept for its region."""

    region_id: str
    name: str
    index: int
    size_bytes: int
    generation: int


class CopyOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An object the node should fetch, from the first of these nodes that gives it."""

    hash: str
    size_bytes: int
    sources: list[str]


class StoreTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What the node should do about objects, whole. A plan with an older generation than the node's is refused.

    `checks` are copies somebody doubts: the node looks at them again. An `inventory` number the node has not told
    everything under yet asks it to.
    """

    plan: int
    inventory: int
    copies: list[CopyOrder] = []
    drops: list[str] = []
    checks: list[str] = []


class BeatReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the node should hold, whole: whatever is not listed it lets go of.

    `generation` is opaque but for its order: it grows with every change, not by one.
    """

    generation: int
    cluster_id: str
    cluster_name: str
    position: int
    endpoints_version: int
    extents: list[TargetExtent]
    store: StoreTarget | None = None
