"""The one tree of errors.

    WeftError
    ├── Rejected                     the caller asked for something that cannot be
    │   ├── NotFound                 ClusterNotFound · NodeNotFound · EndpointNotFound · RegionNotFound
    │   │                            AttachmentNotFound · RouteNotFound · PlacementNotFound · NoSuitableNode
    │   │                            ModelNotAvailable · ObjectNotFound
    │   ├── Conflict                 ClusterExists · NodeExists · IncarnationRetired · RegionExists · RegionNotReady
    │   │                            RegionSealed · RegionNotSealed · RegionInUse · AttachmentConflict
    │   │                            CapacityExceeded · NotYet · PositionAhead · ObjectConflict
    │   ├── Gone                     WorkerReset · PositionCompacted
    │   ├── Invalid                  MalformedJson · InvalidField · BadAddress · BodyTooLarge · MethodNotAllowed
    │   │                            UnsupportedMedia · BadArgument (a ValueError too)
    │   ├── Unauthorized             MissingToken · BadToken
    │   ├── Misconfigured
    │   └── RefusedByPeer            BadFrame · UnsupportedVersion · WrongCluster · WrongSecret · NotAuthenticated
    │                                GrantForged · GrantExpired · StaleGeneration · ExtentLost · UnknownHandle
    │                                OutOfRange · ReadOnly · TooLarge · NotSupported
    ├── Failed                       the world said no
    │   ├── Unavailable · LenderSilent · CloudProfileOff · Internal · PoolUnavailable · NodeUnavailable · NotReached
    │   ├── Busy · ShuttingDown · NoMemory · PeerInternal
    │   ├── TimedOut · Disconnected · Unreachable · Cancelled · Closed
    │   ├── StillExported            (a BufferError too)
    │   ├── PageUnavailable · NoPrivilege
    │   ├── ObjectUnavailable · ObjectNotStored · ObjectCorrupt · StoreFull · StoreFailed
    │   └── JournalFailed            JournalLocked · PositionTaken · JournalDamaged
    └── Broken                       an invariant does not hold; nothing should catch it

A class exists where a caller does something different. `code` is stable and for programs; `temporary` says whether
trying again may help; the facts are fields; the sentence is last and for people. Lower-case codes are those of the
native core and of the wire, upper-case ones are those of the HTTP surface. Which status and envelope an error gets
is the business of `weft.api.errors`; nothing here knows HTTP.
"""

# ruff: noqa: N818 — errors name the situation, and the situation is not called "error".

from collections.abc import Mapping
from typing import Any, ClassVar


class WeftError(Exception):
    """What every error of Weft is. `facts` hold what the sentence is about, by name."""

    code: ClassVar[str] = "error"
    temporary: ClassVar[bool] = False

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, Any] = facts

    def __getattr__(self, name: str) -> Any:
        """Facts read as fields: `error.region`, `error.wanted_bytes`."""
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no fact called {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


class Rejected(WeftError):
    """The caller asked for something that cannot be; asking again changes nothing."""

    code = "rejected"


class Failed(WeftError):
    """The world said no: a machine, a disk or a deadline."""

    code = "failed"


class Broken(WeftError):
    """An invariant does not hold. Whoever raises it wants the process to stop."""

    code = "broken"


class NotFound(Rejected):
    """What was named does not exist."""

    code = "NOT_FOUND"


class ClusterNotFound(NotFound):
    """No cluster has been founded."""

    code = "CLUSTER_NOT_FOUND"


class NodeNotFound(NotFound):
    """No node of that id is in the cluster. Facts: node_id."""

    code = "NODE_NOT_FOUND"


class EndpointNotFound(NotFound):
    """The node has not said how it can be reached. Facts: node_id."""

    code = "ENDPOINT_NOT_FOUND"


class RegionNotFound(NotFound):
    """No region of that name exists. Facts: region."""

    code = "REGION_NOT_FOUND"


class AttachmentNotFound(NotFound):
    """The attachment was closed, lapsed or never was. Facts: region, attachment_id."""

    code = "ATTACHMENT_NOT_FOUND"


class RouteNotFound(NotFound):
    """Nothing is served at that path."""

    code = "ROUTE_NOT_FOUND"


class PlacementNotFound(NotFound):
    """The placement was given back, forgotten or never was. Facts: placement_id."""

    code = "PLACEMENT_NOT_FOUND"


class NoSuitableNode(NotFound):
    """Every node was refused by a filter, or there is none. Facts: nodes, and explanation when it was asked for."""

    code = "NO_SUITABLE_NODE"


class ModelNotAvailable(NotFound):
    """No node that lives has the model. Facts: model."""

    code = "MODEL_NOT_AVAILABLE"


class ObjectNotFound(NotFound):
    """No object of that hash was registered, or this node holds no copy of it. Facts: hash."""

    code = "OBJECT_NOT_FOUND"


class Conflict(Rejected):
    """What was asked contradicts what is."""

    code = "CONFLICT"


class ClusterExists(Conflict):
    """A cluster is already there; a coordinator keeps one. Facts: cluster_name."""

    code = "CLUSTER_EXISTS"


class NodeExists(Conflict):
    """A node of that id is already in the cluster. Facts: node_id."""

    code = "NODE_EXISTS"


class IncarnationRetired(Conflict):
    """A process beats under a life of its node that has already been followed by another. Facts: node_id."""

    code = "INCARNATION_RETIRED"


class RegionExists(Conflict):
    """A region of that name exists. Facts: region, state."""

    code = "REGION_EXISTS"


class RegionNotReady(Conflict):
    """The region cannot be used in the state it is in. Facts: region, state."""

    code = "REGION_NOT_READY"


class RegionSealed(Conflict):
    """The region is sealed: nobody may write to it any more. Facts: region."""

    code = "REGION_SEALED"


class RegionNotSealed(Conflict):
    """The mode needs a sealed region. Facts: region."""

    code = "REGION_NOT_SEALED"


class RegionInUse(Conflict):
    """Attachments are open. Facts: region, attachments."""

    code = "REGION_IN_USE"


class AttachmentConflict(Conflict):
    """Another attachment excludes this one. Facts: region, holders."""

    code = "ATTACHMENT_CONFLICT"


class CapacityExceeded(Conflict):
    """More memory was asked for than is lent and free. Facts: wanted_bytes, free_bytes."""

    code = "CAPACITY_EXCEEDED"


class NotYet(Conflict):
    """What was asked has a place in the design and is not there yet."""

    code = "NOT_YET"


class PositionAhead(Conflict):
    """This log has not come so far; the position is another log's. Facts: from, position."""

    code = "POSITION_AHEAD"


class ObjectConflict(Conflict):
    """An object of that hash is registered with another size. Facts: hash, size_bytes, registered_bytes."""

    code = "OBJECT_CONFLICT"


class Gone(Rejected):
    """What was named was there and will not be again."""

    code = "GONE"


class WorkerReset(Gone):
    """The node a job was placed on was lost, and the job with it; place it again. Facts: placement_id, node_id."""

    code = "WORKER_RESET"


class PositionCompacted(Gone):
    """The log no longer begins early enough; read the state, and follow from its position. Facts: from, oldest."""

    code = "POSITION_COMPACTED"


class Invalid(Rejected):
    """The request itself is wrong."""

    code = "INVALID"


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


class Unauthorized(Rejected):
    """No token, or none that is accepted here."""

    code = "UNAUTHORIZED"


class MissingToken(Unauthorized):
    """No token came with the request, or none in the form that is asked for. Facts: number, by the node seed."""

    code = "MISSING_TOKEN"


class BadToken(Unauthorized):
    """The token is not one that is accepted here. Facts: number, by the node seed."""

    code = "BAD_TOKEN"


class Misconfigured(Rejected):
    """A setting is wrong; the sentence names the variable. Facts: variable."""

    code = "misconfigured"


class RefusedByPeer(Rejected):
    """Another machine understood the request and refused it."""

    code = "refused"


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


class Unavailable(Failed):
    """The service cannot answer now. Facts: reason."""

    code = "UNAVAILABLE"
    temporary = True


class LenderSilent(Failed):
    """Lenders did not confirm in time. Facts: nodes."""

    code = "LENDER_SILENT"
    temporary = True


class CloudProfileOff(Failed):
    """The coordinator runs in the home profile, in which there is no registry of nodes. Facts: variable, node_id."""

    code = "CLOUD_PROFILE_OFF"


class Internal(Failed):
    """A bug, told to the caller without its details; those are in the log under the request id."""

    code = "INTERNAL"


class PoolUnavailable(Failed):
    """No pool that would do has a free slot just now. Facts: refused, why each pool was passed over."""

    code = "POOL_UNAVAILABLE"
    temporary = True


class NodeUnavailable(Failed):
    """The node that was asked for by name is not there, or is given no work. Facts: node_id."""

    code = "NODE_UNAVAILABLE"


class NotReached(Failed):
    """The log has not come to a position in time. Facts: position, at_least."""

    code = "NOT_REACHED"
    temporary = True


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


class ObjectUnavailable(Failed):
    """No copy of the object could be had, and why from each node that was asked. Facts: hash, reasons."""

    code = "OBJECT_UNAVAILABLE"
    temporary = True


class ObjectNotStored(Failed):
    """Too few nodes stored the object for it to count as kept. Facts: hash, nodes, reasons."""

    code = "OBJECT_NOT_STORED"
    temporary = True


class ObjectCorrupt(Failed):
    """The bytes are not those the object's name stands for. Facts: hash."""

    code = "OBJECT_CORRUPT"


class StoreFull(Failed):
    """The disk, or the part of it that objects may have, has no room left. Facts: path, wanted_bytes, free_bytes."""

    code = "STORE_FULL"


class StoreFailed(Failed):
    """The disk refused to write or to read. Facts: path, reason."""

    code = "STORE_FAILED"


class JournalFailed(Failed):
    """The journal could not be read or written. Facts: path."""

    code = "journal_failed"


class JournalLocked(JournalFailed):
    """Another process writes this journal. Facts: path, pid."""

    code = "journal_locked"


class PositionTaken(JournalFailed):
    """Another batch stands where this one was to go. Facts: position."""

    code = "position_taken"
    temporary = True


class JournalDamaged(JournalFailed):
    """What the journal returned is not what was appended. Facts: path, position."""

    code = "journal_damaged"


def _leaves(root: type[WeftError]) -> dict[str, type[WeftError]]:
    """Every class of the tree by its code."""
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_leaves(child))
    return found


BY_CODE: Mapping[str, type[WeftError]] = _leaves(WeftError)


def from_code(code: str, message: str, facts: Mapping[str, Any] | None = None) -> WeftError:
    """The error a code stands for. A code this version does not know keeps its message and facts as `Failed`."""
    known = BY_CODE.get(code)
    if known is None:
        return Failed(message, **{**(facts or {}), "unknown_code": code})
    return known(message, **(facts or {}))


def from_native(code: str, message: str, facts: Mapping[str, Any] | None = None) -> WeftError:
    """What the native core raises. It knows only lower-case codes, so a bare `internal` is a peer's."""
    return from_code(code, message, facts)


def _rebuild(kind: type[WeftError], message: str, facts: dict[str, Any]) -> WeftError:
    """Unpickle: facts are keywords, which the default protocol would drop."""
    return kind(message, **facts)
