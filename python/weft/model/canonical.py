"""Canonical bytes: the one way a value is written where its digest matters.

msgpack with the keys of every map sorted, so that two processes, two versions and two machines that hold equal values
hold equal bytes. Digests are SHA3-256, the hash of every commitment in Weft; object hashes and ring points, which are
SHA-256 by the seeds, never pass through here.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final, NewType

import msgspec

Digest = NewType("Digest", bytes)
DIGEST_BYTES: Final = 32
NO_DIGEST: Final = Digest(bytes(DIGEST_BYTES))
"""The parent of the first batch."""

_encoder: Final = msgspec.msgpack.Encoder(order="sorted")


def canonical_bytes(value: Any) -> bytes:
    """The canonical bytes of a value."""
    return _encoder.encode(value)


def sha3_hex(data: bytes) -> str:
    """The SHA3-256 of bytes as 64 hex digits: the commitment of a blob, wherever one is needed."""
    return hashlib.sha3_256(data).hexdigest()


def log_digest(body: bytes) -> Digest:
    """The digest of a batch's bytes: the next batch names it as its parent, which makes the log one chain."""
    return Digest(hashlib.sha3_256(body).digest())


def table_digest(tables: Iterable[tuple[str, Iterable[tuple[str, Any]]]]) -> Digest:
    """The digest of tables of rows. Each table's rows come in order of key, each as the bytes of (table, key, row)."""
    digest = hashlib.sha3_256()
    for name, rows in tables:
        for key, row in rows:
            digest.update(_encoder.encode((name, key, row)))
    return Digest(digest.digest())
