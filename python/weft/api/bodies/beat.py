"""A beat and its answer. Unknown fields are refused: both ends are Weft's own."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count, IncarnationText, NodeIdText, RegionIdText, Sentence, Text, WaitMs
from weft.model.policy import REPORT_COUNT_MAX


class ExtentReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One extent a node holds, or could not."""

    region_id: RegionIdText
    index: Count
    state: Literal["ready", "failed"]
    error: Sentence | None = None


class PeerReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node reaches another."""

    node_id: NodeIdText
    transport: Text
    rtt_us: float
    tier: Text


class Observations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node saw. `extents` is the whole list of what it holds, not what changed.

    `lend_bytes` is what it lends in this life, where that is no longer what it joined with.
    """

    lend_bytes: Count | None = None
    reserved_bytes: Count = 0
    extents: Annotated[list[ExtentReport], Meta(max_length=REPORT_COUNT_MAX)] = []
    peers: Annotated[list[PeerReport], Meta(max_length=REPORT_COUNT_MAX)] = []
    counters: Annotated[dict[Text, Count], Meta(max_length=256)] = {}


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
