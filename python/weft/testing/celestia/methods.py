"""The double's methods: what each wants, what permission it needs, and what it says."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weft.ledger.layers.celestia.commitment import share_commitment
from weft.model.errors import InvalidField
from weft.model.namespace import NAMESPACE_BYTES, Namespace, parse_namespace
from weft.testing.celestia.chain import Blob, Fate

if TYPE_CHECKING:
    from weft.testing.celestia.app import NodeDouble

TRANSACTION_BYTES_MAX: Final = 8 * 1024 * 1024
_TIMED_OUT: Final = "timed out waiting for tx to be included in a block"
_NOT_FOUND: Final = "blob: not found"


class Permission(StrEnum):
    """What a token may allow."""

    PUBLIC = "public"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class NodeError(Exception):
    """What the node itself says: code 1, whatever it is."""


class WrongRequest(Exception):  # noqa: N818 — it is what the request is.
    """Parameters of the right number and of the wrong kind."""


class Method(NamedTuple):
    """One method."""

    permission: Permission
    param_count: int
    answer: "Callable[[NodeDouble, list[Any]], Awaitable[Any]]"
    is_subscription: bool = False


async def submit(node: "NodeDouble", params: list[Any]) -> int:
    """blob.Submit: the height, after inclusion."""
    blobs, options = params
    if options is None:
        raise AttributeError("invalid memory address or nil pointer dereference")
    if not isinstance(options, dict) or not isinstance(blobs, list):
        raise WrongRequest("unmarshaling params for 'blob.Submit'")
    if options.get("is_gas_price_set") and options.get("gas_price", 0) > 100 * 0.004:
        raise NodeError("state: estimated gas price exceeds max gas price in tx config")
    taken = [_taken(blob) for blob in blobs]
    if not taken:
        raise NodeError("blob: no blobs provided")
    if sum(len(base64.b64decode(blob["data"])) for blob in taken) > TRANSACTION_BYTES_MAX:
        raise NodeError("blob: over size limit")
    match node.chain.fates.popleft() if node.chain.fates else Fate.INCLUDED:
        case Fate.INCLUDED:
            return await node.chain.submit(taken)
        case Fate.TIMES_OUT_AND_LANDS:
            node.chain.submit(taken, delay=1)
            raise NodeError(_TIMED_OUT)
        case Fate.TIMES_OUT_AND_IS_LOST:
            raise NodeError(_TIMED_OUT)
        case Fate.WRONG_SEQUENCE:
            raise NodeError("account sequence mismatch, expected 7, got 6: incorrect account sequence")
        case Fate.EVICTED:
            raise NodeError("tx with hash AB12 was evicted from the mempool")
        case Fate.REJECTED:
            raise NodeError("tx with hash AB12 was rejected by the node with execution code 11")
        case Fate.IN_MEMPOOL:
            node.chain.submit(taken)
            raise NodeError("broadcast tx error: tx already in mempool")
        case Fate.DEADLINE:
            node.chain.submit(taken)
            raise NodeError("context deadline exceeded")


async def get(node: "NodeDouble", params: list[Any]) -> Blob:
    """blob.Get: one blob by its commitment."""
    height, namespace, commitment = params
    _check_height(node, height)
    for ordinal, blob in enumerate(node.chain.blobs(height)):
        if blob["namespace"] == namespace and blob["commitment"] == commitment:
            return {**blob, "index": ordinal}
    raise NodeError(_NOT_FOUND)


async def get_all(node: "NodeDouble", params: list[Any]) -> list[Blob] | None:
    """blob.GetAll: every blob of some namespaces at a height, null when there is none."""
    height, namespaces = params
    _check_height(node, height)
    return [blob for blob in node.chain.blobs(height) if blob["namespace"] in namespaces] or None


async def included(node: "NodeDouble", params: list[Any]) -> bool:
    """blob.Included: whether a blob is there. Proves no more than that the node says so."""
    height, namespace, proof, commitment = params
    if proof is None:
        raise NodeError("blob: proof cannot be nil")
    try:
        await get(node, [height, namespace, commitment])
    except NodeError as error:
        if str(error) == _NOT_FOUND:
            return False
        raise
    return True


async def head(node: "NodeDouble", _: list[Any]) -> dict[str, Any]:
    """header.NetworkHead and header.LocalHead."""
    return _header(node.chain.head)


async def tail(node: "NodeDouble", _: list[Any]) -> dict[str, Any]:
    """header.Tail: the lowest header kept."""
    return _header(node.chain.tail)


async def header_at(node: "NodeDouble", params: list[Any]) -> dict[str, Any]:
    """header.GetByHeight."""
    _check_height(node, params[0])
    return _header(params[0])


async def sync_state(node: "NodeDouble", _: list[Any]) -> dict[str, Any]:
    """header.SyncState: numbers here, where headers have strings."""
    to_height = node.chain.head + (100 if node.is_syncing else 0)
    return {
        "id": 1,
        "height": node.chain.head,
        "from_height": 1,
        "to_height": to_height,
        "from_hash": "00" * 32,
        "to_hash": "00" * 32,
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-01T00:00:00Z",
    }


async def ready(_: "NodeDouble", __: list[Any]) -> bool:
    """node.Ready."""
    return True


async def info(_: "NodeDouble", __: list[Any]) -> dict[str, Any]:
    """node.Info, which wants an administrator."""
    return {"type": "bridge", "api_version": "v0.31.4"}


async def subscribe(_: "NodeDouble", __: list[Any]) -> None:
    """blob.Subscribe, which plain HTTP has not."""


METHODS: Final[dict[str, Method]] = {
    "blob.Submit": Method(Permission.WRITE, 2, submit),
    "blob.Get": Method(Permission.READ, 3, get),
    "blob.GetAll": Method(Permission.READ, 2, get_all),
    "blob.Included": Method(Permission.READ, 4, included),
    "blob.Subscribe": Method(Permission.READ, 1, subscribe, is_subscription=True),
    "header.NetworkHead": Method(Permission.READ, 0, head),
    "header.LocalHead": Method(Permission.READ, 0, head),
    "header.Tail": Method(Permission.READ, 0, tail),
    "header.GetByHeight": Method(Permission.READ, 1, header_at),
    "header.SyncState": Method(Permission.READ, 0, sync_state),
    "node.Ready": Method(Permission.READ, 0, ready),
    "node.Info": Method(Permission.ADMIN, 0, info),
}


def _taken(blob: Any) -> Blob:
    """A blob as it goes into a block, its commitment computed anew."""
    if not isinstance(blob, dict):
        raise WrongRequest("unmarshaling params for 'blob.Submit'")
    try:
        raw = base64.b64decode(blob["namespace"], validate=True)
        data = base64.b64decode(blob["data"], validate=True)
    except (KeyError, ValueError, TypeError, binascii.Error) as error:
        raise WrongRequest(f"unmarshaling params for 'blob.Submit': {error}") from error
    if len(raw) != NAMESPACE_BYTES:
        raise NodeError(f"invalid namespace length: must be {NAMESPACE_BYTES} bytes, got {len(raw)} bytes")
    try:
        namespace = parse_namespace(raw.hex())
    except InvalidField as error:
        raise NodeError(f"invalid data namespace({raw.hex()}): namespace is reserved") from error
    version = blob.get("share_version", 0)
    if version != 0:
        raise NodeError(f"unsupported share version: {version}")
    if not data:
        raise NodeError("blob: empty data")
    computed = base64.b64encode(share_commitment(Namespace(namespace), data)).decode()
    if blob.get("commitment") not in (None, "", computed):
        raise NodeError("blob: commitment does not match its data")
    return {
        "namespace": blob["namespace"],
        "data": blob["data"],
        "share_version": 0,
        "commitment": computed,
        "index": -1,
    }


def _check_height(node: "NodeDouble", height: Any) -> None:
    if isinstance(height, bool) or not isinstance(height, int) or height < 0:
        raise WrongRequest("unmarshaling params: height is a uint64")
    if height == 0:
        raise NodeError("height is equal to 0")
    if node.is_syncing and height > node.chain.head:
        raise NodeError(f"header: syncing in progress: localHeadHeight: {node.chain.head}, requestedHeight: {height}")
    if height > node.chain.head:
        raise NodeError(
            f"header: given height is from the future: networkHeight: {node.chain.head}, requestedHeight: {height}"
        )
    if height < node.chain.tail:
        raise NodeError(f"requested header ({height}) is below Tail ({node.chain.tail})")


def _header(height: int) -> dict[str, Any]:
    """An extended header, of which clients of ours read one field. Heights are strings in it."""
    return {
        "header": {"version": {"block": "11", "app": "7"}, "chain_id": "double", "height": str(height)},
        "commit": {"height": str(height), "round": 0, "signatures": []},
        "validator_set": {"validators": []},
        "dah": {"row_roots": [], "column_roots": []},
    }
