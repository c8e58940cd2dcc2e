"""An object: bytes named by their SHA-256, and the nodes that hold a copy of all of them.

An object is placed, replicated and healed whole. What names it is what is in it, so a copy is either the object or it
is not, and whoever reads one can tell. The storage seed's callers may name objects as they like; such an object is kept
in the books like any other, and only one that is named by its content can be verified, and so stored and healed.
"""

import re
from typing import Final, NewType

import msgspec

from weft.model.errors import InvalidField
from weft.model.ids import NodeId
from weft.model.policy import CHUNK_BYTES

ObjectHash = NewType("ObjectHash", str)

_OBJECT_HASH = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CONTENT_HASH = re.compile(r"[0-9a-fA-F]{64}")

GONE_REASONS: Final = ("missing", "corrupt", "dropped", "marked")
"""Why a node no longer holds a copy: it was not there, it was not the object any more, it was one too many and the
plan said so, or somebody said that it is missing."""


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says of an object. `replicas` are the nodes that said they hold it, in order of id.

    One that is `deleting` is no object any more to anybody who asks: it is in the books for as long as a node has yet
    to let go of its copy. `left` are nodes that held a copy when they left the cluster, the last to leave last: they
    count for nothing, and are here so that one that comes back to an object that was deleted meanwhile hears of it.
    """

    object_hash: ObjectHash
    size_bytes: int
    replicas_wanted: int
    replicas: tuple[NodeId, ...]
    registered_at_ms: int
    deleting: bool = False
    left: tuple[NodeId, ...] = ()


def parse_object_hash(value: str, field: str = "hash") -> ObjectHash:
    """The name of an object. 64 hexadecimal digits mean the same in either case, and are kept in lower case."""
    if _OBJECT_HASH.fullmatch(value) is None:
        raise InvalidField(
            "an object's hash is 1 to 128 letters, digits, dots, dashes, colons or underscores", field=field
        )
    return ObjectHash(value.lower()) if _CONTENT_HASH.fullmatch(value) else ObjectHash(value)


def is_content_hash(object_hash: ObjectHash) -> bool:
    """Whether an object is named by the SHA-256 of its bytes, so that a copy of it can be verified."""
    return _CONTENT_HASH.fullmatch(object_hash) is not None


def chunk_count(size_bytes: int) -> int:
    """How many chunks so many bytes are. An empty object has none."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_size(size_bytes: int, index: int) -> int:
    """How long a chunk is: all are whole but the last."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)
