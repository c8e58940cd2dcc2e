"""An envelope: what a blob is put in where anybody may put blobs. It says whose it is, and its place among its kind.

    0  "WEV1" | 4 u8 kind | 5 three zero bytes | 8 cluster id, 16 | 24 u64 sequence | 32 public key, 32
    64 u32 length of the payload | 68 payload | Ed25519 signature of all before, in the publisher's domain, 64

All integers are little-endian. One content has one envelope: the same key, sequence and payload give the same bytes, so
a blob that is put twice has one commitment. The order of a place that others write to decides nothing; the sequence
inside does: a batch's position in the log, a part's, a snapshot's, and 0 for a blob that has no order.

What if somebody posts an envelope of ours again? It is the same blob, and readers go by commitments. What if somebody
posts what only looks like ours? `BlobForeign`: the reader counts it and goes on.
"""

import struct
from collections.abc import Collection
from enum import Enum
from typing import Final

import msgspec

from weft.model.errors import BadSignature, BlobForeign
from weft.model.ids import CLUSTER_ID_BYTES, ClusterId
from weft.receipts import SIGNATURE_BYTES, Domain, PublicKey, SigningKey, verify

MAGIC: Final = b"WEV1"
NO_CLUSTER: Final = ClusterId(bytes(CLUSTER_ID_BYTES))
"""What an envelope names before the first event of a log has given the cluster its id."""
_HEAD: Final = struct.Struct("<4sB3s16sQ32sI")
OVERHEAD_BYTES: Final = _HEAD.size + SIGNATURE_BYTES
"""How much longer an envelope is than what is in it."""
SEQUENCE_MAX: Final = 2**64 - 1


class Kind(Enum):
    """What is inside."""

    BATCH = 1
    SNAPSHOT = 2
    BLOB = 3
    PART = 4
    """Of a batch that is larger than a layer's blobs."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What an envelope said, once its signature was found good."""

    cluster_id: ClusterId
    kind: Kind
    sequence: int
    publisher: PublicKey
    payload: bytes


def wrap(key: SigningKey, cluster_id: ClusterId, kind: Kind, sequence: int, payload: bytes) -> bytes:
    """The signed bytes of an envelope. The key is one of the publisher's domain."""
    assert key.domain is Domain.PUBLISHER, "an envelope is signed by a publisher"
    assert 0 <= sequence <= SEQUENCE_MAX, "a sequence has 64 bits"
    head = _HEAD.pack(MAGIC, kind.value, bytes(3), cluster_id, sequence, key.public, len(payload))
    body = head + payload
    return body + key.sign(body)


def unwrap(sealed: bytes, public_keys: Collection[PublicKey], cluster_id: ClusterId | None = None) -> Envelope:
    """What is in an envelope that one of these publishers signed, for this cluster when one is named.

    Raises `BlobForeign` for everything else. The shape is looked at first, because it costs nothing, and nothing of it
    is believed before the signature was verified.
    """
    if len(sealed) < OVERHEAD_BYTES or not sealed.startswith(MAGIC):
        raise BlobForeign("the blob is in no envelope of Weft's", reason="format")
    _, kind, zero, cluster, sequence, publisher, payload_bytes = _HEAD.unpack_from(sealed)
    if zero != bytes(3) or len(sealed) != OVERHEAD_BYTES + payload_bytes or not 1 <= kind <= len(Kind):
        raise BlobForeign("the blob begins as an envelope and goes on as none this version knows", reason="format")
    if publisher not in public_keys:
        raise BlobForeign(f"the blob was published by {publisher.hex()}, who is not of this cluster", reason="key")
    try:
        verify(PublicKey(publisher), Domain.PUBLISHER, sealed[:-SIGNATURE_BYTES], sealed[-SIGNATURE_BYTES:])
    except BadSignature as error:
        raise BlobForeign("the blob names this cluster's publisher, who did not sign it", reason="signature") from error
    if cluster_id is not None and cluster != cluster_id:
        raise BlobForeign(f"the blob was published for cluster {cluster.hex()}", reason="cluster")
    return Envelope(
        cluster_id=ClusterId(cluster),
        kind=Kind(kind),
        sequence=sequence,
        publisher=PublicKey(publisher),
        payload=sealed[_HEAD.size : -SIGNATURE_BYTES],
    )


class Publisher:
    """Puts blobs into envelopes of their own where a place is open to others, and takes them out again.

    What is an envelope of the log already, a batch or a snapshot, goes as it is. Everything else goes into one of kind
    BLOB, another envelope of that kind included, so that what comes out is always what went in.
    """

    def __init__(self, key: SigningKey, cluster_id: ClusterId = NO_CLUSTER) -> None:
        self._key = key
        self._keys = (key.public,)
        self.cluster_id = cluster_id

    @property
    def public(self) -> PublicKey:
        """Who publishes. It names the cluster where its id is not known: on a machine that lost its disk."""
        return self._key.public

    def outer(self, blob: bytes) -> bytes:
        """What is put in the open place for a blob."""
        try:
            if unwrap(blob, self._keys).kind is not Kind.BLOB:
                return blob
        except BlobForeign:
            pass
        return wrap(self._key, self.cluster_id, Kind.BLOB, 0, blob)

    def inner(self, sealed: bytes) -> bytes:
        """The blob, from what was found in the open place. Raises `BlobForeign`."""
        envelope = unwrap(sealed, self._keys)
        return envelope.payload if envelope.kind is Kind.BLOB else sealed
