"""A grant: the proof of a right to reach a region's memory, which a lender checks without asking anybody.

The coordinator mints it when an attachment opens, the holder shows it to every lender of the region, and a lender
needs only the cluster secret and the generation it was last told. The Rust half reads and checks the same bytes.

    0  "WGR1" | 4 u8 mode | 5 u8 rights | 6 u16 zero | 8 cluster id, 16 | 24 u64 generation | 32 u64 expires_at_ms
    40 u16 length of the region id | 42 u16 length of the holder | 44 region id | holder | HMAC-SHA256 of all before

All integers are little-endian. What if a grant is stolen? It opens the region until it expires or a newer generation
fences it, to whoever also holds the cluster secret, without which no greeting is answered.
"""

import hashlib
import hmac
import struct
from typing import Final

import msgspec

from weft.model.attachment import Mode, Right
from weft.model.errors import GrantExpired, GrantForged
from weft.model.ids import CLUSTER_ID_BYTES, ClusterId, Generation, RegionId

MAGIC: Final = b"WGR1"
SEAL_BYTES: Final = 32
_HEAD: Final = struct.Struct("<4sBBH16sQQHH")
_MODES: Final = {Mode.READ: 1, Mode.EXCLUSIVE: 2, Mode.PRIVATE: 3}
_MODE_OF: Final = {number: mode for mode, number in _MODES.items()}


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What is granted, to whom, and until when."""

    cluster_id: ClusterId
    region_id: RegionId
    generation: Generation
    mode: Mode
    rights: Right
    holder: str
    expires_at_ms: int


def grant_key(secret: bytes) -> bytes:
    """The key grants are sealed with. Each use of the secret has its own key, so that none can stand for another."""
    return _derive(secret, b"weft/1 grant")


def hello_key(secret: bytes) -> bytes:
    """The key peers greet each other with."""
    return _derive(secret, b"weft/1 hello")


def http_token(secret: bytes) -> str:
    """The bearer token that whoever knows the secret may use over HTTP."""
    return _derive(secret, b"weft/1 http").hex()


def mint(grant: Grant, key: bytes) -> bytes:
    """The sealed bytes of a grant."""
    region_id, holder = grant.region_id.encode(), grant.holder.encode()
    head = _HEAD.pack(
        MAGIC,
        _MODES[grant.mode],
        int(grant.rights),
        0,
        grant.cluster_id,
        grant.generation,
        grant.expires_at_ms,
        len(region_id),
        len(holder),
    )
    body = head + region_id + holder
    return body + hmac.digest(key, body, hashlib.sha256)


def verify(sealed: bytes, key: bytes, now_ms: int) -> Grant:
    """The grant these bytes are, checked: the seal first, then the shape, then the time.

    Raises `GrantForged` when the seal or the shape is wrong, and `GrantExpired` when the time has passed.
    """
    if len(sealed) < _HEAD.size + SEAL_BYTES:
        raise GrantForged("the grant is too short to be one")
    body, seal = sealed[:-SEAL_BYTES], sealed[-SEAL_BYTES:]
    if not hmac.compare_digest(hmac.digest(key, body, hashlib.sha256), seal):
        raise GrantForged("the grant does not carry this cluster's seal")
    magic, mode, rights, zero, cluster_id, generation, expires_at_ms, region_length, holder_length = _HEAD.unpack_from(
        body
    )
    region_end = _HEAD.size + region_length
    shape_holds = magic == MAGIC and zero == 0 and mode in _MODE_OF and len(body) == region_end + holder_length
    if not shape_holds or len(cluster_id) != CLUSTER_ID_BYTES:
        raise GrantForged("the grant is sealed and is not in a shape this version knows")
    if now_ms >= expires_at_ms:
        raise GrantExpired("the grant has expired; renew the attachment", expires_at_ms=expires_at_ms)
    return Grant(
        cluster_id=ClusterId(cluster_id),
        region_id=RegionId(body[_HEAD.size : region_end].decode()),
        generation=Generation(generation),
        mode=_MODE_OF[mode],
        rights=Right(rights),
        holder=body[region_end:].decode(),
        expires_at_ms=expires_at_ms,
    )


def _derive(secret: bytes, label: bytes) -> bytes:
    return hmac.digest(secret, label, hashlib.sha256)
