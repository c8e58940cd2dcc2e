"""The share commitment of a blob: what Celestia knows it by, computed by ourselves.

A blob is laid out in shares of 512 bytes, the shares are split into trees whose widest follows from their number, each
tree is a namespaced Merkle tree, and the commitment is the RFC 6962 root of those trees' roots:

    share      namespace 29 | info 1 (version << 1 | is first) | first only: length, 4, big-endian | v1: signer 20 |
    data leaf       namespace | namespace | SHA-256(0 | namespace | share) node       namespace | namespace | SHA-256(1
    | left | right)       one namespace, so least and greatest are equal root       SHA-256(0 | tree root) joined by
    SHA-256(1 | left | right), split at the largest power of two below n

A node computes it too, and tells us; a node that tells us something else has other bytes than it says. About 180 MiB/s.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from math import isqrt
from typing import Final

from weft.model.namespace import NAMESPACE_BYTES, Namespace

SHARE_BYTES: Final = 512
SIGNER_BYTES: Final = 20
COMMITMENT_BYTES: Final = 32
_SUBTREE_ROOTS_MAX: Final = 64
"""The chain's own number, the same in every client; it does not change without all of them."""
_LENGTH_BYTES: Final = 4
_LATER_BYTES: Final = SHARE_BYTES - NAMESPACE_BYTES - 1


def share_commitment(namespace: Namespace, data: bytes, *, share_version: int = 0, signer: bytes = b"") -> bytes:
    """The commitment of a blob that is not empty. `signer` is there in share version 1 and in no other."""
    assert data, "an empty blob has no shares"
    assert share_version in (0, 1), "share versions 0 and 1 are known"
    assert len(signer) == (SIGNER_BYTES if share_version == 1 else 0), "version 1 has a signer, version 0 none"
    leaves = [_leaf(namespace, share) for share in shares_of(namespace, data, share_version, signer)]
    roots: list[bytes] = []
    begin = 0
    for width in tree_widths(len(leaves)):
        roots.append(_tree_root(namespace, leaves[begin : begin + width]))
        begin += width
    return _merkle_root(roots)


def shares_of(namespace: Namespace, data: bytes, share_version: int, signer: bytes) -> Iterator[bytes]:
    """The shares of a blob, the last one filled up with zeros."""
    info = share_version << 1
    head = b"".join((namespace, bytes((info | 1,)), len(data).to_bytes(_LENGTH_BYTES), signer))
    first_bytes = SHARE_BYTES - len(head)
    yield (head + data[:first_bytes]).ljust(SHARE_BYTES, b"\0")
    later = namespace + bytes((info,))
    for begin in range(first_bytes, len(data), _LATER_BYTES):
        yield (later + data[begin : begin + _LATER_BYTES]).ljust(SHARE_BYTES, b"\0")


def tree_widths(count: int) -> Iterator[int]:
    """How wide the trees over so many shares are: as many of the widest as fit, then falling powers of two."""
    widest = min(_power_from(-(-count // _SUBTREE_ROOTS_MAX)), _power_from(isqrt(count - 1) + 1))
    while count >= widest:
        yield widest
        count -= widest
    while count:
        width = 1 << (count.bit_length() - 1)
        yield width
        count -= width


def _leaf(namespace: Namespace, share: bytes) -> bytes:
    return namespace + namespace + sha256(b"\0" + namespace + share).digest()


def _tree_root(namespace: Namespace, level: Sequence[bytes]) -> bytes:
    """The root over a power of two of leaves."""
    span = namespace + namespace
    while len(level) > 1:
        level = [
            span + sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


def _merkle_root(items: Sequence[bytes]) -> bytes:
    if len(items) == 1:
        return sha256(b"\0" + items[0]).digest()
    half = 1 << ((len(items) - 1).bit_length() - 1)
    return sha256(b"\1" + _merkle_root(items[:half]) + _merkle_root(items[half:])).digest()


def _power_from(count: int) -> int:
    """The least power of two that is not below a number above zero."""
    return 1 << (count - 1).bit_length()
