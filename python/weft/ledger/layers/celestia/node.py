"""A Celestia node's methods, as few as the layer needs, each with what its answers look like.

Heights come as numbers or as strings of digits, lists that are empty come as `null`, and older versions spell the keys
of the sync state in Go's case. What a node says of a blob is not believed: its commitment is computed here from its
bytes.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

from weft.ledger.layers.celestia.commitment import SIGNER_BYTES, share_commitment
from weft.ledger.layers.celestia.rpc import CallFailed, Meaning, Rpc
from weft.model.namespace import Namespace
from weft.model.policy import CELESTIA_INLINE_BYTES_MAX


class ChainBlob(NamedTuple):
    """A blob at a height. `mark` is its commitment as computed here, None when it is of a kind we do not know."""

    ordinal: int
    data: bytes
    mark: bytes | None


class SyncState(NamedTuple):
    """How far a node has come, and how far it is to come."""

    height: int
    to_height: int


class Node:
    """One node, for one namespace. Every method raises `CallFailed`."""

    def __init__(self, rpc: Rpc, namespace: Namespace, gas_price: float | None) -> None:
        self._rpc = rpc
        self._namespace = namespace
        self._namespace_text = base64.b64encode(namespace).decode()
        # Never null: a node that gets null for it panics. A price counts only together with its switch.
        self._options = {} if gas_price is None else {"gas_price": gas_price, "is_gas_price_set": True}

    async def mark(self, data: bytes) -> bytes:
        """What the chain knows a blob of ours by."""
        if len(data) <= CELESTIA_INLINE_BYTES_MAX:
            return share_commitment(self._namespace, data)
        return await asyncio.to_thread(share_commitment, self._namespace, data)

    async def submit(self, blobs: Sequence[tuple[bytes, bytes]], timeout_ms: int) -> int:
        """Have blobs (data, mark) included in a block; the height of it, once it is there."""
        listed = [
            {
                "namespace": self._namespace_text,
                "data": base64.b64encode(data).decode(),
                "share_version": 0,
                "commitment": base64.b64encode(mark).decode(),
                "index": -1,
            }
            for data, mark in blobs
        ]
        return _height(await self._rpc.call("blob.Submit", [listed, self._options], timeout_ms), "blob.Submit")

    async def get(self, height: int, mark: bytes, timeout_ms: int) -> bytes:
        """The data of a blob, whose commitment was computed and is the one asked for."""
        params = [height, self._namespace_text, base64.b64encode(mark).decode()]
        said = await self._rpc.call("blob.Get", params, timeout_ms)
        ((blob,),) = await self._all([[said]])
        if blob.mark != mark:
            raise CallFailed(Meaning.NOT_FOUND, f"blob.Get: the node gave other bytes than those asked for at {height}")
        return blob.data

    async def blobs(self, heights: Sequence[int], timeout_ms: int) -> list[list[ChainBlob]]:
        """Everything in the namespace at each of these heights, whoever put it there."""
        params = [[height, [self._namespace_text]] for height in heights]
        results = await self._rpc.call_each("blob.GetAll", params, timeout_ms)
        lists: list[list[Any]] = []
        for said in results:
            if isinstance(said, CallFailed):
                if said.meaning is not Meaning.NOT_FOUND:
                    raise said
                said = None
            if not isinstance(said, list | None):
                raise CallFailed(Meaning.UNKNOWN, "blob.GetAll gave no list")
            lists.append(said or [])
        return await self._all(lists)

    async def head(self, timeout_ms: int) -> int:
        """The highest block of the network."""
        return _header_height(await self._rpc.call("header.NetworkHead", [], timeout_ms), "header.NetworkHead")

    async def tail(self, timeout_ms: int) -> int:
        """The lowest block this node still has."""
        return _header_height(await self._rpc.call("header.Tail", [], timeout_ms), "header.Tail")

    async def sync_state(self, timeout_ms: int) -> SyncState:
        """How far the node has come."""
        said = await self._rpc.call("header.SyncState", [], timeout_ms)
        if not isinstance(said, dict):
            raise CallFailed(Meaning.UNKNOWN, "header.SyncState gave no object")
        lower = {str(key).lower().replace("_", ""): value for key, value in said.items()}
        return SyncState(
            _height(lower.get("height"), "header.SyncState"), _height(lower.get("toheight"), "header.SyncState")
        )

    async def _all(self, lists: Sequence[Sequence[Any]]) -> list[list[ChainBlob]]:
        """Blobs as they were described, each with its mark; by a thread where that would hold up everybody else."""

        def read() -> list[list[ChainBlob]]:
            return [[self._blob(ordinal, one) for ordinal, one in enumerate(listed)] for listed in lists]

        said = [one.get("data") for listed in lists for one in listed if isinstance(one, dict)]
        size_bytes = sum(len(text) for text in said if isinstance(text, str))
        return read() if size_bytes <= CELESTIA_INLINE_BYTES_MAX else await asyncio.to_thread(read)

    def _blob(self, ordinal: int, said: Any) -> ChainBlob:
        try:
            data = base64.b64decode(said["data"] or "", validate=True)
            version = said.get("share_version", 0)
            signer = base64.b64decode(said.get("signer") or "", validate=True)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise CallFailed(Meaning.UNKNOWN, "the node described a blob in no shape this version knows") from error
        knows = bool(data) and ((version == 0 and not signer) or (version == 1 and len(signer) == SIGNER_BYTES))
        if not knows:
            # Of a later share version, or empty, which cannot be: somebody else's, whatever it is.
            return ChainBlob(ordinal, data, None)
        return ChainBlob(ordinal, data, share_commitment(self._namespace, data, share_version=version, signer=signer))


def _header_height(said: Any, method: str) -> int:
    header = said.get("header") if isinstance(said, dict) else None
    return _height(header.get("height") if isinstance(header, dict) else None, method)


def _height(said: Any, method: str) -> int:
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) <= 19:
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int) or said < 0:
        raise CallFailed(Meaning.UNKNOWN, f"{method} gave no height")
    return said
