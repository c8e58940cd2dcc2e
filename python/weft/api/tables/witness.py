"""The routes of validators and of the emergency server. They are not the coordinator's, and its document has none."""

from typing import Final

from weft.api.bodies import witness
from weft.api.errors import Family
from weft.api.route import Route
from weft.model import errors

WITNESS: Final[tuple[Route, ...]] = (
    Route(
        operation="put_blob",
        method="PUT",
        path="/blob/{commitment}",
        summary="Keep a blob, which is the body as it is; the answer comes when it is on the disk.",
        family=Family.WEFT,
        reply=witness.BlobKept,
        errors=(errors.InvalidField, errors.BodyTooLarge, errors.LayerFailed, errors.LayerUnknown),
    ),
    Route(
        operation="show_blob",
        method="GET",
        path="/blob/{commitment}",
        summary="A blob, as application/octet-stream.",
        family=Family.WEFT,
        errors=(errors.InvalidField, errors.BlobMissing, errors.BlobDamaged),
    ),
    Route(
        operation="list_blobs",
        method="GET",
        path="/blobs",
        summary="What is kept, from a place on.",
        family=Family.WEFT,
        query=witness.BlobsQuery,
        reply=witness.BlobList,
        errors=(errors.InvalidField,),
    ),
    Route(
        operation="show_health",
        method="GET",
        path="/health",
        summary="Whether a put would work now.",
        family=Family.WEFT,
        reply=witness.WitnessHealth,
        errors=(errors.Unavailable,),
        open_to_all=True,
    ),
    Route(
        operation="show_metrics",
        method="GET",
        path="/metrics",
        summary="Counters and gauges as Prometheus text.",
        family=Family.WEFT,
    ),
)
