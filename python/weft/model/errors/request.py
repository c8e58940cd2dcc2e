"""What is wrong with a request before its meaning is looked at, and a coordinator that was not reached."""

# ruff: noqa: N818 — errors name the situation, and the situation is not called "error".

from weft.model.errors.tree import Failed, Invalid, NotFound, Rejected, Unauthorized


class RouteNotFound(NotFound):
    """Nothing is served at that path."""

    code = "ROUTE_NOT_FOUND"


class MalformedJson(Invalid):
    """The body is not JSON."""

    code = "MALFORMED_JSON"


class InvalidField(Invalid):
    """A field has a value it cannot have. Facts: field."""

    code = "INVALID_FIELD"


class BadAddress(Invalid):
    """A page address is neither decimal nor hexadecimal. Facts: field."""

    code = "BAD_ADDRESS"


class BodyTooLarge(Invalid):
    """The body is longer than a control message may be. Facts: limit_bytes."""

    code = "BODY_TOO_LARGE"


class MethodNotAllowed(Invalid):
    """The path is served, but not with this method. Facts: allowed."""

    code = "METHOD_NOT_ALLOWED"


class UnsupportedMedia(Invalid):
    """The body says that it is something else than JSON. Facts: media_type."""

    code = "UNSUPPORTED_MEDIA"


class BadArgument(Invalid, ValueError):
    """A value passed to the native core is outside what it accepts."""

    code = "bad_argument"


class MissingToken(Unauthorized):
    """No token came with the request, or none in the form that is asked for. Facts: number, by the node seed."""

    code = "MISSING_TOKEN"


class BadToken(Unauthorized):
    """The token is not one that is accepted here. Facts: number, by the node seed."""

    code = "BAD_TOKEN"


class BadSignature(Rejected):
    """A signature is not that of the key it is said to be of, over this message and for this use. Facts: public_key."""

    code = "bad_signature"


class Misconfigured(Rejected):
    """A setting is wrong; the sentence names the variable. Facts: variable."""

    code = "misconfigured"


class NotReached(Failed):
    """The log has not come to a position in time. Facts: position, at_least."""

    code = "NOT_REACHED"
    temporary = True
