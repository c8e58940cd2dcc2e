"""The port of an availability layer: four verbs, written from the side of the one who keeps copies of the log.

A layer is told nothing of batches or positions: it keeps blobs under their commitment, the SHA3-256 of their bytes, and
lists them in the order it took them. What if the answer to a put is lost? Then `LayerUnknown`: whoever put it scans for
the commitment from the cursor it remembers, before it puts again. What if a blob is put twice? A layer keeps it once,
or gives it back twice and the reader, who goes by commitments, does not mind.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, NewType, Protocol

from weft.model.canonical import sha3_hex

Commitment = NewType("Commitment", str)
"""The SHA3-256 of a blob, 64 hex digits."""

Cursor = NewType("Cursor", str)
"""A place in a layer's own order. Opaque; `""` is before everything."""


def commit_to(blob: bytes) -> Commitment:
    """The commitment of a blob."""
    return Commitment(sha3_hex(blob))


class Receipt(NamedTuple):
    """What a layer says when it holds a blob: where in its own order, by its own count."""

    commitment: Commitment
    height: int


class Kept(NamedTuple):
    """A blob as a scan finds it. The bytes were verified against the commitment."""

    commitment: Commitment
    height: int
    blob: bytes


class Scan(NamedTuple):
    """A stretch of a layer's order, and where the next one begins. `is_end` says that nothing more is there now.

    A stretch may be empty and not be the end. `damaged` names what the layer lists and cannot give back as it was put,
    so that whoever reads can look for it elsewhere; `foreign_count` is how much of the stretch others put there.
    """

    kept: Sequence[Kept]
    after: Cursor
    is_end: bool
    damaged: Sequence[Commitment] = ()
    foreign_count: int = 0


class LayerHealth(StrEnum):
    """What a probe finds."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


class Layer(Protocol):
    """Keeps copies that outlive the journal. One suite in tests/conformance holds every implementation to this.

    Every verb ends by its own deadline, with an error of the `LayerFailed` branch when it must: plain `LayerFailed`
    when nothing happened and trying again may help, `LayerUnknown` when the blob may or may not be kept,
    `LayerRefused` when trying again changes nothing. A scan that finds the blob settles `LayerUnknown`; after a plain
    failure only another put does, whatever a scan shows, for a layer of several places may hold it in too few of them.
    """

    @property
    def name(self) -> str:
        """What routing, logs and metrics call it: memory, celestia, quorum, emergency."""
        ...

    @property
    def blob_bytes_max(self) -> int:
        """The largest blob it takes. A larger one is `LayerRefused` before anything is sent."""
        ...

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob, durably by this layer's own meaning of it, before returning. Putting it again is harmless."""
        ...

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified. Raises `BlobMissing`, `BlobPruned` when it was kept once, `BlobDamaged`."""
        ...

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What was kept after a cursor, in the layer's order. Foreign and damaged blobs are counted and skipped.

        Every blob a put was answered for is in it once at least. Raises `BlobPruned` rather than begin behind a place
        that can no longer be read, with the fact `after` from where it goes on beyond that, and `LayerFailed` when what
        it would give back may have holes.
        """
        ...

    async def probe(self) -> LayerHealth:
        """Whether a put would work now: `DEGRADED` is slowly, or perhaps. A layer that is down never raises here."""
        ...

    async def close(self) -> None:
        """Let go of connections. What was put stays."""
        ...
