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
    WEFT = "weft"


STATUS: Final[dict[type[WeftError], int]] = {
    errors.Rejected: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ClusterExists: 400,
    errors.NodeExists: 400,
    errors.Invalid: 400,
    errors.MalformedJson: 400,
    errors.InvalidField: 422,
    errors.BadArgument: 422,
    errors.BodyTooLarge: 413,
    errors.MethodNotAllowed: 405,
    errors.Unauthorized: 401,
    errors.Failed: 500,
    errors.Internal: 500,
    errors.Unavailable: 503,
    errors.LenderSilent: 503,
    errors.Busy: 503,
    errors.ShuttingDown: 503,
    errors.JournalFailed: 503,
    errors.TimedOut: 504,
    WeftError: 500,
}


def status_of(error: WeftError) -> int:
    """The status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def status_of_class(kind: type[WeftError]) -> int:
    """The status every error of a class has."""
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def envelope(error: WeftError, family: Family) -> dict[str, Any]:
    """An error's body, in the shape of the family that was spoken to."""
    if family is Family.CLUSTER:
        return {"detail": error.message, "code": error.code}
    return {"error": error.message, "code": error.code, "fields": error.facts, "temporary": error.temporary}
