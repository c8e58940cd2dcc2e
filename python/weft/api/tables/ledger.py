"""The routes of data availability: the storage seed's, and what Weft says beyond them."""

from typing import Final

from weft.api.bodies import ledger
from weft.api.errors import Family
from weft.api.route import Route
from weft.model import errors
from weft.model.policy import KIB, LAYER_BLOB_BYTES_MAX

_BLOB_BODY_BYTES_MAX: Final = 2 * LAYER_BLOB_BYTES_MAX + KIB
"""Two digits a byte, and room for the rest of the JSON."""

LEDGER: Final[tuple[Route, ...]] = (
    Route(
        operation="post_blob",
        method="POST",
        path="/da/post",
        summary="Have an availability layer keep bytes; answered when it does.",
        family=Family.DA,
        body=ledger.BlobBody,
        body_bytes_max=_BLOB_BODY_BYTES_MAX,
        reply=ledger.BlobPosted,
        errors=(
            errors.BadHex,
            errors.NoLayer,
            errors.LayerUnknown,
            errors.LayerRefused,
            errors.Unavailable,
        ),
    ),
    Route(
        operation="show_blob",
        method="GET",
        path="/da/blob/{commitment}",
        summary="Bytes by their commitment, from any layer that has them, verified.",
        family=Family.STORAGE,
        reply=ledger.BlobInfo,
        errors=(errors.BadHex, errors.BlobMissing, errors.BlobDamaged, errors.NoLayer),
    ),
    Route(
        operation="show_da_metrics",
        method="GET",
        path="/da/metrics",
        summary="What was asked of the layer that takes writes.",
        family=Family.STORAGE,
        reply=ledger.DaMetrics,
    ),
    Route(
        operation="show_da_routing",
        method="GET",
        path="/da/routing",
        summary="Where writes go, and which layers are well.",
        family=Family.STORAGE,
        reply=ledger.DaRouting,
    ),
    Route(
        operation="show_fallback_status",
        method="GET",
        path="/fallback/status",
        summary="Whether a fallback is in use, and why.",
        family=Family.STORAGE,
        reply=ledger.FallbackStatus,
    ),
    Route(
        operation="list_fallback_pending",
        method="GET",
        path="/fallback/pending",
        summary="Blobs the primary is not known to hold, the oldest first, up to a thousand.",
        family=Family.STORAGE,
        reply=list[ledger.PendingInfo],
    ),
    Route(
        operation="reconcile",
        method="POST",
        path="/fallback/reconcile",
        summary="Bring everything pending to the primary now, stuck blobs among it.",
        family=Family.STORAGE,
        reply=ledger.ReconcileReport,
        errors=(errors.PrimaryUnhealthy, errors.ReconciliationFailed, errors.NoLayer),
    ),
    Route(
        operation="compare_layers",
        method="GET",
        path="/fallback/consistency",
        summary="Compare the bytes of the primary with those of the fallbacks and of the log.",
        family=Family.STORAGE,
        reply=ledger.ConsistencyReport,
        errors=(errors.NoLayer,),
    ),
    Route(
        operation="show_ready",
        method="GET",
        path="/ready",
        summary="200 when a write would be taken by a healthy layer, otherwise 503.",
        family=Family.STORAGE,
        reply=ledger.ReadyBody,
        errors=(errors.Unavailable,),
        open_to_all=True,
    ),
    Route(
        operation="show_system_info",
        method="GET",
        path="/system/info",
        summary="The coordinator in a few words.",
        family=Family.STORAGE,
        reply=ledger.SystemInfo,
    ),
    Route(
        operation="show_ledger",
        method="GET",
        path="/ledger",
        summary="How far the log is committed and available, and every layer.",
        family=Family.WEFT,
        reply=ledger.LedgerInfo,
    ),
    Route(
        operation="list_pending",
        method="GET",
        path="/ledger/pending",
        summary="Part of the pending list, or of what is stuck.",
        family=Family.WEFT,
        query=ledger.PendingQuery,
        reply=ledger.PendingLines,
        errors=(errors.InvalidField,),
    ),
)
