"""What the native core and the wire say: a peer refused, or a machine, a lane or a page failed."""

# ruff: noqa: N818 — errors name the situation, and the situation is not called "error".

from weft.model.errors.tree import Failed, RefusedByPeer


class BadFrame(RefusedByPeer):
    """The peer could not read what was sent to it."""

    code = "bad_frame"


class UnsupportedVersion(RefusedByPeer):
    """The two ends share no version of the wire."""

    code = "unsupported_version"


class WrongCluster(RefusedByPeer):
    """The peer belongs to another cluster."""

    code = "wrong_cluster"


class WrongSecret(RefusedByPeer):
    """The two ends do not hold the same cluster secret."""

    code = "wrong_secret"


class TlsMismatch(RefusedByPeer):
    """One of the two ends speaks TLS and the other does not."""

    code = "tls_mismatch"


class CertificateRefused(RefusedByPeer):
    """One of the two ends does not take the other's certificate; the sentence says whose, and why."""

    code = "certificate_refused"


class NotAuthenticated(RefusedByPeer):
    """A request came before the greeting was finished."""

    code = "not_authenticated"


class GrantForged(RefusedByPeer):
    """The grant does not carry this cluster's seal."""

    code = "grant_forged"


class GrantExpired(RefusedByPeer):
    """The grant's time has passed; renew the attachment."""

    code = "grant_expired"


class StaleGeneration(RefusedByPeer):
    """A newer attachment has fenced this one off."""

    code = "stale_generation"


class ExtentLost(RefusedByPeer):
    """The lender lost the extent, most likely by starting anew. It never answers zeros instead."""

    code = "extent_lost"


class UnknownHandle(RefusedByPeer):
    """The handle was never opened on this connection, or was closed."""

    code = "unknown_handle"


class OutOfRange(RefusedByPeer):
    """The range does not lie inside the target."""

    code = "out_of_range"


class ReadOnly(RefusedByPeer):
    """The grant gives no right to write."""

    code = "read_only"


class TooLarge(RefusedByPeer):
    """The request is longer than the peer accepts."""

    code = "too_large"


class NotSupported(RefusedByPeer):
    """The peer knows the request and does not offer it."""

    code = "not_supported"


class Busy(Failed):
    """The peer has no room for the request just now."""

    code = "busy"
    temporary = True


class ShuttingDown(Failed):
    """The peer is going away."""

    code = "shutting_down"
    temporary = True


class NoMemory(Failed):
    """The machine has no memory left for what was asked."""

    code = "no_memory"


class PeerInternal(Failed):
    """The peer met a bug of its own."""

    code = "internal"


class TimedOut(Failed):
    """The deadline passed."""

    code = "timed_out"
    temporary = True


class Disconnected(Failed):
    """The connection ended while something was under way."""

    code = "disconnected"
    temporary = True


class Unreachable(Failed):
    """No connection could be made."""

    code = "unreachable"
    temporary = True


class Cancelled(Failed):
    """Whoever asked took the request back."""

    code = "cancelled"


class Closed(Failed):
    """What was used has been closed."""

    code = "closed"


class StillExported(Failed, BufferError):
    """Memory cannot be unmapped while arrays or views still look into it."""

    code = "still_exported"


class PageUnavailable(Failed):
    """A page could not be had. Facts: region, offset, node, reason."""

    code = "page_unavailable"


class NoPrivilege(Failed):
    """The kernel does not allow this process to do what was asked."""

    code = "no_privilege"
