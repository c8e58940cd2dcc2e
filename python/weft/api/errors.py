"""The error table at the API's edge: class → status, and one envelope a family.

Domain errors do not know HTTP; this is the only place that gives one a status. A class that has no row takes its
nearest ancestor's, so a new error cannot slip out as a 500 unless nobody said what kind it is.
"""

from enum import StrEnum
from typing import Any, Final

from weft.model import errors
from weft.model.errors import WeftError


class Family(StrEnum):
    """Whose shapes a route speaks."""

    CLUSTER = "cluster"
    POOLS = "pools"
    STORAGE = "storage"
    DA = "da"
    WEFT = "weft"


STATUS: Final[dict[type[WeftError], int]] = {
    errors.Rejected: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.ClusterExists: 400,
    errors.NodeExists: 400,
    errors.Invalid: 400,
    errors.MalformedJson: 400,
    errors.InvalidField: 422,
    errors.BadArgument: 422,
    errors.BodyTooLarge: 413,
    errors.MethodNotAllowed: 405,
    errors.UnsupportedMedia: 415,
    errors.Unauthorized: 401,
    errors.Failed: 500,
    errors.Internal: 500,
    errors.Unavailable: 503,
    errors.LenderSilent: 503,
    errors.CloudProfileOff: 503,
    errors.Busy: 503,
    errors.ShuttingDown: 503,
    errors.JournalFailed: 503,
    errors.BatchTooLarge: 413,
    errors.LayerFailed: 503,
    errors.LayerUnknown: 504,
    errors.LayerRefused: 502,
    errors.BlobTooLarge: 413,
    errors.BlobMissing: 404,
    errors.BlobDamaged: 502,
    errors.BlobForeign: 502,
    errors.NoLayer: 503,
    errors.NotAvailableYet: 504,
    errors.PrimaryUnhealthy: 409,
    errors.ReconciliationFailed: 500,
    errors.BadHex: 400,
    errors.PoolUnavailable: 503,
    errors.NodeUnavailable: 503,
    errors.NotReached: 504,
    errors.TimedOut: 504,
    WeftError: 500,
}


TOLD_EVERYWHERE: Final = ("number", "reason", "writer")
"""Facts every family tells, also those whose seed knows no fields: the node seed's 40101 and 40102, why a 503 was
answered, by which a client knows whether its request may have been carried out, and who writes where one does not."""

INVALID_PARAMS: Final = "INVALID_PARAMS"
"""What the node seed calls a wrong field, which it answers with 400."""


def status_of(error: WeftError, family: Family = Family.WEFT) -> int:
    """The status of an error."""
    return status_of_class(type(error), family)


def status_of_class(kind: type[WeftError], family: Family = Family.WEFT) -> int:
    """The status every error of a class has, where this family is spoken."""
    if family is Family.POOLS and issubclass(kind, errors.InvalidField):
        return 400
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def code_of_class(kind: type[WeftError], family: Family = Family.WEFT) -> str:
    """What a family calls an error."""
    return INVALID_PARAMS if family is Family.POOLS and issubclass(kind, errors.InvalidField) else kind.code


def envelope(error: WeftError, family: Family) -> dict[str, Any]:
    """An error's body, in the shape of the family that was spoken to."""
    told = {name: error.facts[name] for name in TOLD_EVERYWHERE if name in error.facts}
    beside = {"fields": told} if told else {}
    if family is Family.CLUSTER:
        return {"detail": error.message, "code": error.code, **beside}
    if family is Family.POOLS:
        return {
            "success": False,
            "message": error.message,
            "node_id": error.facts.get("node_id"),
            "code": code_of_class(type(error), family),
            **beside,
        }
    if family is Family.DA:
        return {"success": False, "error": error.message, "code": error.code, **beside}
    if isinstance(error, errors.ReconciliationFailed):
        # The storage seed's own shape: the code stands for the error, and the report beside it says how far it came.
        return {"error": error.code, "message": error.message, "report": error.facts.get("report"), "code": error.code}
    body = {"error": error.message, "code": error.code, "fields": error.facts, "temporary": error.temporary}
    if family is Family.STORAGE and "node_id" in error.facts:
        # The storage seed names the node beside the sentence; that it stands in the fields too is Weft's own.
        body["node_id"] = error.facts["node_id"]
    return body
