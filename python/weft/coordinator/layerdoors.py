"""Availability over HTTP: blobs posted and read, and one snapshot of how layers stand in each seed's words.

Every answer about how things stand is spelled from the board's snapshot alone, so no two can disagree. Nothing here
asks a layer but the routes that are about bytes.
"""

import binascii
import re
from collections.abc import Callable
from typing import Final

from weft.api.bodies.cluster import HealthBody, RoleInCluster
from weft.api.bodies.ledger import (
    BlobInfo,
    BlobPosted,
    ConsistencyReport,
    DaMetrics,
    DaRouting,
    FallbackStatus,
    LayerInfo,
    LedgerInfo,
    PendingInfo,
    PendingLine,
    PendingLines,
    ReadyBody,
    ReconcileReport,
    RoleName,
    StatusName,
    SystemInfo,
)
from weft.coordinator.availability import Availability
from weft.coordinator.ports import Clock
from weft.coordinator.writer import Writer
from weft.ledger.board import Routing
from weft.ledger.layer import Commitment, LayerHealth
from weft.ledger.meter import Counts
from weft.ledger.reconciler import Report
from weft.ledger.router import choose_active
from weft.model.availability import Acknowledgement, PendingBlob, Role, Standing
from weft.model.errors import BadHex, BodyTooLarge, NoLayer, Unavailable
from weft.model.policy import AVAILABLE_MS_MAX, BLOBS_AT_ONCE_MAX, PENDING_PAGE_MAX
from weft.serve import Call

_COMMITMENT: Final = re.compile(r"[0-9a-fA-F]{64}")
_STATUS: Final[dict[Standing, StatusName]] = {
    Standing.HEALTHY: "primary_healthy",
    Standing.WARNING: "primary_degraded",
    Standing.DEGRADED: "fallback_secondary",
    Standing.EMERGENCY: "fallback_emergency",
    Standing.RECOVERING: "primary_degraded",
    Standing.UNAVAILABLE: "unavailable",
}
_FOLLOWING: Final = {True: "healthy (following)", False: "degraded (following)"}
_UNCONFIGURED: Final = "no availability layer is configured; set USE_MOCK_DA=true, or DA_RPC_URL and DA_NAMESPACE"


class LayerDoors:
    """Answers for layers."""

    def __init__(
        self,
        writer: Writer,
        availability: Availability | None,
        clock: Clock,
        acknowledgement: Acknowledgement,
        version: str,
        hears: Callable[[], bool | None],
    ) -> None:
        """`hears` says whether a coordinator that follows another hears of it; None of one that does not."""
        self._hears = hears
        self._writer = writer
        self._availability = availability
        self._clock = clock
        self._acknowledgement = acknowledgement
        self._version = version
        self._posting = 0

    async def post_blob(self, call: Call) -> BlobPosted:
        """POST /da/post."""
        router, board = self._configured().router, self._configured().board
        try:
            blob = binascii.unhexlify(call.body.data_hex)
        except ValueError as error:
            raise BadHex(f"data_hex is not an even number of hexadecimal digits: {error}", field="data_hex") from error
        if len(blob) > router.blob_bytes_max:
            raise BodyTooLarge(
                f"a blob has at most {router.blob_bytes_max} bytes, this one {len(blob)}",
                limit_bytes=router.blob_bytes_max,
            )
        if board.now.active is None:
            raise NoLayer("no availability layer can take a blob now, and none has this one; try again")
        if self._posting >= BLOBS_AT_ONCE_MAX:
            raise Unavailable(f"{self._posting} blobs are on their way already; try again", reason="busy")
        self._posting += 1
        try:
            placed = await router.store(blob, choose_active, within_ms=AVAILABLE_MS_MAX)
        finally:
            self._posting -= 1
        return BlobPosted(commitment=placed.receipt.commitment, height=placed.receipt.height)

    async def show_blob(self, call: Call) -> BlobInfo:
        """GET /da/blob/{commitment}."""
        text = call.path["commitment"]
        if not _COMMITMENT.fullmatch(text):
            raise BadHex("a commitment is 64 hexadecimal digits", field="commitment")
        commitment = Commitment(text.lower())
        blob = await self._configured().router.get(commitment)
        return BlobInfo(commitment=commitment, size_bytes=len(blob), data_hex=blob.hex())

    async def show_metrics(self, call: Call) -> DaMetrics:  # noqa: ARG002
        """GET /da/metrics."""
        return self._active_metrics()

    async def show_routing(self, call: Call) -> DaRouting:  # noqa: ARG002
        """GET /da/routing."""
        now = self._now()
        return DaRouting(
            current_state=_spell_role(now),
            primary_healthy=now is not None and now.is_healthy(Role.PRIMARY),
            secondary_healthy=now is not None and now.is_healthy(Role.SECONDARY),
            emergency_healthy=now is not None and now.is_healthy(Role.EMERGENCY),
            fallback_active=now is not None and now.is_on_fallback,
            pending_reconcile=0 if now is None else now.pending,
        )

    async def show_status(self, call: Call) -> FallbackStatus:  # noqa: ARG002
        """GET /fallback/status."""
        now = self._now()
        if now is None:
            return FallbackStatus(
                current_status="unavailable",
                fallback_active=False,
                fallback_reason=_UNCONFIGURED,
                pending_reconcile_count=0,
                last_fallback_at=None,
            )
        return FallbackStatus(
            current_status=_STATUS[now.standing],
            fallback_active=now.is_on_fallback,
            fallback_reason=_spell_reason(now),
            pending_reconcile_count=now.pending,
            last_fallback_at=now.last_fallback_at_ms,
        )

    async def list_fallback_pending(self, call: Call) -> list[PendingInfo]:  # noqa: ARG002
        """GET /fallback/pending."""
        if self._availability is None:
            return []
        return [
            PendingInfo(
                blob_id=blob.commitment,
                source_da=blob.source.value,
                stored_at=blob.stored_at_ms,
                retry_count=blob.retry_count,
                last_error=blob.last_error,
            )
            for blob in await self._availability.pending.read(0, PENDING_PAGE_MAX)
        ]

    async def reconcile(self, call: Call) -> ReconcileReport:  # noqa: ARG002
        """POST /fallback/reconcile."""
        return _report_body(await self._configured().reconciler.reconcile())

    async def compare(self, call: Call) -> ConsistencyReport:  # noqa: ARG002
        """GET /fallback/consistency."""
        compared = await self._configured().compare()
        return ConsistencyReport(
            is_consistent=not compared.details,
            items_verified=compared.verified,
            inconsistencies_found=len(compared.details),
            details=list(compared.details),
            verified_at=self._clock.now_ms(),
        )

    async def show_health(self, call: Call) -> HealthBody:  # noqa: ARG002
        """GET /health."""
        hears, state = self._hears(), self._writer.state
        role: RoleInCluster = "writer" if self._writer.is_writing else "stopping" if hears is None else "follower"
        # A follower ships nothing and looks at no layer; what its board says is of a life it may have had before.
        now = None if role == "follower" else self._now()
        ledger = state.ledger
        return HealthBody(
            status=self._spell_health(now) if role != "follower" else _FOLLOWING[bool(hears)],
            role=role,
            writer="" if ledger is None else ledger.address or ledger.writer,
            cluster_active=state.cluster is not None,
            version=self._version,
            position=state.marks.position,
            da_available=now is not None and now.active is not None,
            da_health=None if now is None else _spell_layer_health(now),
            da_state=None if now is None else now.standing.value,
            metrics=DaMetrics() if now is None else self._active_metrics(),
        )

    async def show_ready(self, call: Call) -> ReadyBody:  # noqa: ARG002
        """GET /ready."""
        now = self._now()
        if not self._writer.is_writing:
            raise Unavailable("the coordinator does not write", reason="stopping")
        if now is not None and now.active_health is not LayerHealth.HEALTHY:
            raise Unavailable(
                f"the layer that would take a write is not healthy ({now.standing.value})", reason="availability"
            )
        return ReadyBody()

    async def show_system_info(self, call: Call) -> SystemInfo:  # noqa: ARG002
        """GET /system/info."""
        follows = self._hears() is not None
        now = None if follows else self._now()
        unknown = "NotConfigured" if self._availability is None else "NotWatched"
        return SystemInfo(
            version=self._version,
            node_count=len(self._writer.state.nodes),
            da_status=unknown if now is None else _spell_layer_health(now),
            routing_state=_spell_role(now),
            fallback_active=now is not None and now.is_on_fallback,
            da_state=None if now is None else now.standing.value,
        )

    async def show_ledger(self, call: Call) -> LedgerInfo:  # noqa: ARG002
        """GET /ledger."""
        position, now = self._writer.state.marks.position, self._now()
        availability = self._availability
        return LedgerInfo(
            committed_position=position,
            available_position=position if availability is None else availability.shipper.shipped,
            acknowledgement="committed" if availability is None else self._acknowledgement.value,
            da_state=None if now is None else now.standing.value,
            since=None if now is None else now.since_ms,
            primary_failures=0 if now is None else now.watched.failures,
            unshipped=0 if now is None else now.unshipped,
            pending=0 if now is None else now.pending,
            stuck=0 if now is None else now.stuck,
            failover_count=0 if now is None else now.failover_count,
            reconciliation_count=0 if now is None else now.reconciliation_count,
            layers=[] if now is None else self._layers(now),
        )

    async def list_pending(self, call: Call) -> PendingLines:
        """GET /ledger/pending."""
        query, availability, now = call.query, self._availability, self._now()
        if availability is None or now is None:
            return PendingLines(pending=0, stuck=0, blobs=[])
        blobs = await availability.pending.read(query.after, query.limit, is_stuck=query.stuck)
        return PendingLines(pending=now.pending, stuck=now.stuck, blobs=[_pending_line(blob) for blob in blobs])

    def _now(self) -> Routing | None:
        return None if self._availability is None else self._availability.board.now

    def _configured(self) -> Availability:
        if self._availability is None:
            raise NoLayer(_UNCONFIGURED)
        return self._availability

    def _spell_health(self, now: Routing | None) -> str:
        if not self._writer.is_writing or (now is not None and now.active is None):
            return "unavailable"
        if now is None:
            return "healthy"
        word = "healthy" if now.standing is Standing.HEALTHY else "degraded"
        return f"{word} (routing: {_spell_role(now)})"

    def _active_metrics(self) -> DaMetrics:
        availability, now = self._availability, self._now()
        if availability is None or now is None or now.active is None:
            return DaMetrics()
        return _counts_body(availability.layers[now.active].counts)

    def _layers(self, now: Routing) -> list[LayerInfo]:
        assert self._availability is not None, "a snapshot is of something"
        return [
            LayerInfo(
                role=role.value,
                name=view.name,
                is_active=now.active is role,
                is_healthy=now.is_healthy(role),
                health=None if view.health is None else view.health.value,
                counts=_counts_body(self._availability.layers[role].counts),
            )
            for role, view in now.layers.items()
        ]


def _spell_role(now: Routing | None) -> RoleName:
    return (Role.PRIMARY if now is None or now.active is None else now.active).value


def _spell_layer_health(now: Routing) -> str:
    """The seed shows its language's debug text."""
    health = LayerHealth.UNAVAILABLE if now.active_health is None else now.active_health
    return f"Ok({health.value.capitalize()})"


def _spell_reason(now: Routing) -> str | None:
    failures, standing = now.watched.failures, now.standing
    if standing is Standing.HEALTHY:
        return None
    if standing is Standing.WARNING:
        return f"the primary failed {failures} checks in a row"
    if standing is Standing.RECOVERING:
        return f"the primary is back, and {now.pending} blobs are being brought to it"
    if standing is Standing.UNAVAILABLE:
        return "no layer is healthy"
    return "the primary is out" if now.watched.failures else "the primary is back, and has yet to prove it"


def _report_body(report: Report) -> ReconcileReport:
    return ReconcileReport(
        success=report.success,
        blobs_processed=report.processed,
        blobs_reconciled=report.reconciled,
        blobs_failed=report.failed,
        duration_ms=report.duration_ms,
        errors=list(report.errors),
    )


def _counts_body(counts: Counts) -> DaMetrics:
    return DaMetrics(
        available=True,
        post_count=counts.post_count,
        get_count=counts.get_count,
        error_count=counts.error_count,
        health_check_count=counts.health_check_count,
        retry_count=counts.retry_count,
        avg_post_latency_us=counts.post_us_mean,
        avg_get_latency_us=counts.get_us_mean,
    )


def _pending_line(blob: PendingBlob) -> PendingLine:
    return PendingLine(
        commitment=blob.commitment,
        source=blob.source.value,
        sequence=blob.sequence,
        position=blob.position,
        size_bytes=blob.size_bytes,
        stored_at=blob.stored_at_ms,
        retry_count=blob.retry_count,
        last_error=blob.last_error,
        stuck=blob.is_stuck,
    )
