"""The storage seed's bodies of data availability, and what Weft says of it beyond them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count

RoleName = Literal["primary", "secondary", "emergency"]
StandingName = Literal["healthy", "warning", "degraded", "emergency", "recovering", "unavailable"]
StatusName = Literal["primary_healthy", "primary_degraded", "fallback_secondary", "fallback_emergency", "unavailable"]


class BlobBody(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes to be kept, as hexadecimal digits."""

    data_hex: str


class BlobPosted(msgspec.Struct, frozen=True, kw_only=True):
    """A layer keeps it, at this place in its own order. When that is a fallback, it is on the pending list too."""

    success: Literal[True] = True
    commitment: str
    height: int


class BlobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A blob, verified against its commitment."""

    commitment: str
    size_bytes: int
    data_hex: str


class DaMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of the layer that takes writes. Without one, `available` is false and the rest are zero."""

    available: bool = False
    post_count: int = 0
    get_count: int = 0
    error_count: int = 0
    health_check_count: int = 0
    retry_count: int = 0
    avg_post_latency_us: int = 0
    avg_get_latency_us: int = 0


class DaRouting(msgspec.Struct, frozen=True, kw_only=True):
    """Where writes go. With no usable layer the seed's word is "primary", and none is healthy."""

    current_state: RoleName
    primary_healthy: bool
    secondary_healthy: bool
    emergency_healthy: bool
    fallback_active: bool
    pending_reconcile: int


class FallbackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How availability stands, in the seed's words. A recovering primary is "primary_degraded" until it has it all."""

    current_status: StatusName
    fallback_active: bool
    fallback_reason: str | None
    pending_reconcile_count: int
    last_fallback_at: int | None


class PendingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A blob the primary is not known to hold."""

    blob_id: str
    source_da: RoleName
    target_da: Literal["primary"] = "primary"
    stored_at: int
    retry_count: int
    last_error: str | None


class ReconcileReport(msgspec.Struct, frozen=True, kw_only=True):
    """What reconciling did. `success` says that the primary holds everything now."""

    success: bool
    blobs_processed: int
    blobs_reconciled: int
    blobs_failed: int
    duration_ms: int
    errors: list[str]


class ConsistencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, byte for byte, and what differs: a sentence each, the commitment first."""

    is_consistent: bool
    items_verified: int
    inconsistencies_found: int
    details: list[str]
    verified_at: int


class ReadyBody(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator takes writes, and what they wait for is well."""

    ready: Literal[True] = True


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator in a few words. `da_state` is Weft's own, None when no layer is configured."""

    version: str
    node_count: int
    da_status: str
    routing_state: RoleName
    fallback_active: bool
    da_state: StandingName | None


class LayerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, as its last check found it, and what was asked of it."""

    role: RoleName
    name: str
    is_active: bool
    is_healthy: bool
    health: Literal["healthy", "degraded", "unavailable"] | None
    counts: DaMetrics


class LedgerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is: committed, and available up to. `da_state` is None when no layer is configured.

    `unshipped` batches are committed and in no layer; `pending` blobs are in a fallback and not known to be in the
    primary, of which `stuck` ones are tried again only when somebody asks.
    """

    committed_position: int
    available_position: int
    acknowledgement: Literal["available", "committed"]
    da_state: StandingName | None
    since: int | None
    primary_failures: int
    unshipped: int
    pending: int
    stuck: int
    failover_count: int
    reconciliation_count: int
    layers: list[LayerInfo]


class PendingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the list: after a sequence, so many, and whether only those that are stuck, or are not."""

    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    stuck: bool | None = None


class PendingLine(msgspec.Struct, frozen=True, kw_only=True):
    """A pending blob. `position` is that of the batch it carries, None for one somebody posted."""

    commitment: str
    source: RoleName
    sequence: int
    position: int | None
    size_bytes: int
    stored_at: int
    retry_count: int
    last_error: str | None
    stuck: bool


class PendingLines(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the pending list, in the order in which it reaches the primary, and how long the whole is."""

    pending: int
    stuck: int
    blobs: list[PendingLine]
