"""The one tree of errors.

    WeftError
    ├── Rejected                     the caller asked for something that cannot be
    │   ├── NotFound                 ClusterNotFound · NodeNotFound · EndpointNotFound · RegionNotFound
    │   │                            AttachmentNotFound · RouteNotFound · PlacementNotFound · NoSuitableNode
    │   │                            ModelNotAvailable · ObjectNotFound
    │   ├── Conflict                 ClusterExists · NodeExists · IncarnationRetired · RegionExists · RegionNotReady
    │   │                            RegionSealed · RegionNotSealed · RegionInUse · AttachmentConflict
    │   │                            CapacityExceeded · NotYet · PositionAhead · ObjectConflict · BeatReplayed
    │   │                            ObjectBeingDeleted
    │   ├── Gone                     WorkerReset · PositionCompacted
    │   ├── Invalid                  MalformedJson · InvalidField · BadAddress · BodyTooLarge · MethodNotAllowed
    │   │                            UnsupportedMedia · BadHex · BadArgument (a ValueError too)
    │   ├── Unauthorized             MissingToken · BadToken
    │   ├── Misconfigured · BadSignature
    │   └── RefusedByPeer            BadFrame · UnsupportedVersion · WrongCluster · WrongSecret · NotAuthenticated
    │                                GrantForged · GrantExpired · StaleGeneration · ExtentLost · UnknownHandle
    │                                OutOfRange · ReadOnly · TooLarge · NotSupported · TlsMismatch
    │                                CertificateRefused
    ├── Failed                       the world said no
    │   ├── Unavailable (NotTheWriter) · LenderSilent · CloudProfileOff · Internal · PoolUnavailable
    │   ├── NodeUnavailable · NotReached
    │   ├── Busy · ShuttingDown · NoMemory · PeerInternal
    │   ├── TimedOut · Disconnected · Unreachable · Cancelled · Closed
    │   ├── StillExported            (a BufferError too)
    │   ├── PageUnavailable · NoPrivilege
    │   ├── ObjectUnavailable · ObjectNotStored · ObjectCorrupt · StoreFull
    │   ├── StoreFailed (StoreUnreadable)
    │   ├── JournalFailed            JournalLocked · PositionTaken · JournalDamaged · JournalTrimmed · BatchTooLarge
    │   ├── SnapshotFailed           SnapshotDamaged
    │   └── LayerFailed              LayerUnknown · LayerRefused (BlobTooLarge) · BlobMissing (BlobPruned)
    │                                BlobDamaged · BlobForeign · NoLayer · NotAvailableYet
    │                                PrimaryUnhealthy · ReconciliationFailed · PendingFailed
    └── Broken                       an invariant does not hold; nothing should catch it

A class exists where a caller does something different. `code` is stable and for programs; `temporary` says whether
trying again may help; the facts are fields; the sentence is last and for people. Lower-case codes are those of the
native core and of the wire, upper-case ones are those of the HTTP surface. Which status and envelope an error gets
is the business of `weft.api.errors`; nothing here knows HTTP.
"""

# ruff: noqa: F403 — one file a subject; whoever raises or catches knows one tree.

from collections.abc import Mapping
from typing import Any

from weft.model.errors.control import *
from weft.model.errors.dataplane import *
from weft.model.errors.ledger import *
from weft.model.errors.objects import *
from weft.model.errors.request import *
from weft.model.errors.tree import *
from weft.model.errors.tree import Failed, WeftError


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
