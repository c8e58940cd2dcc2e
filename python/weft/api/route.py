"""A route, as data, and the errors that routes share."""

from typing import Final

import msgspec

from weft.api.errors import Family
from weft.model import errors
from weft.model.errors import WeftError
from weft.model.policy import BODY_BYTES_MAX


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. `body`, `query` and `reply` are types; without a reply there is no body, or it is no JSON.

    `errors` are what only this route, or only some, can be refused with; `outcomes` are all. `media` names what the
    route answers with beside JSON, or in its place where it has no reply; `part` is what each event of a stream
    carries. With `any_key` the path may name anything that is a segment of one, and not only what could be there.
    `body_bytes_max` is the bound of a body that may be larger than control messages are. A `cloud_only` route is
    there in the cloud profile, and elsewhere says so before it looks at anything that was sent.
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
    media: str | None = None
    part: type | None = None
    any_key: bool = False
    cloud_only: bool = False

    @property
    def outcomes(self) -> tuple[type[WeftError], ...]:
        """Every error a caller may be answered with: the route's own, and those any route like it has.

        Every request may carry an id or name something in its path that cannot be; every body may be no JSON, too long
        or too slow; every read may ask for a position the log does not come to in time.
        """
        found = [*self.errors, errors.InvalidField]
        if self.body is not None:
            found += [errors.MalformedJson, errors.BodyTooLarge, errors.TimedOut]
            found += [errors.UnsupportedMedia] if self.family is Family.POOLS else []
        if self.method == "GET":
            found.append(errors.NotReached)
        if not self.open_to_all:
            found += [errors.MissingToken, errors.BadToken]
        return tuple(dict.fromkeys(found))


WRITE_ERRORS: Final = (errors.Unavailable, errors.NoLayer, errors.NotAvailableYet)
NODE_ERRORS: Final = (errors.ClusterNotFound, errors.NodeNotFound)
REGION_ERRORS: Final = (errors.ClusterNotFound, errors.RegionNotFound)
