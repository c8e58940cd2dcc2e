"""A route, as data, and the errors that routes share."""

from typing import Final

import msgspec

from weft.api.errors import Family
from weft.model import errors
from weft.model.errors import WeftError
from weft.model.policy import BODY_BYTES_MAX


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. `body`, `query` and `reply` are types; a reply of None is not JSON and is described by `summary`.

    `body_bytes_max` is the bound of a body that may be larger than control messages are.
    """

    operation: str
    method: str
    path: str
    summary: str
    family: Family
    status: int = 200
    body: type | None = None
    query: type | None = None
    reply: type | None = None
    errors: tuple[type[WeftError], ...] = ()
    open_to_all: bool = False
    body_bytes_max: int = BODY_BYTES_MAX


BODY_ERRORS: Final = (errors.MalformedJson, errors.InvalidField, errors.BodyTooLarge)
WRITE_ERRORS: Final = (errors.Unavailable, errors.NoLayer, errors.NotAvailableYet)
NODE_ERRORS: Final = (errors.ClusterNotFound, errors.NodeNotFound)
REGION_ERRORS: Final = (errors.ClusterNotFound, errors.RegionNotFound)
