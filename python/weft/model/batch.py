"""A batch: what is appended at once. It applies whole or not at all.

    Batch{format, cluster_id, term, publisher, position, parent, at_ms, entries[{sequence, cause, event}]}

`parent` is the digest of the batch before, so a batch cannot be dropped, changed or put elsewhere without the next one
showing it. `sequence` is the publisher's own count, by which a redelivered event is known and a gap is seen. `cause`
is the request the event answers: the caller's request id, followed after a tilde by the digest of what was asked when
the id was the caller's own, so that one id sent with two different requests is two causes.
"""

from typing import Final

import msgspec

from weft.model.canonical import Digest, canonical_bytes, log_digest
from weft.model.errors import JournalDamaged
from weft.model.events import Event
from weft.model.ids import ClusterId, Position, Term

FORMAT: Final = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event, who counted it and why it happened."""

    sequence: int
    cause: str
    event: Event


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The envelope. Everything that is true of all its events stands here once."""

    format: int = FORMAT
    cluster_id: ClusterId
    term: Term
    publisher: str
    position: Position
    parent: Digest
    at_ms: int
    entries: tuple[Entry, ...]


class SealedBatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch with its canonical bytes and their digest, computed once and carried along."""

    batch: Batch
    body: bytes
    digest: Digest


_decoder: Final = msgspec.msgpack.Decoder(Batch)


def seal(batch: Batch) -> SealedBatch:
    """Write a batch down."""
    body = canonical_bytes(batch)
    return SealedBatch(batch=batch, body=body, digest=log_digest(body))


def unseal(body: bytes, position: Position, digest: Digest | None = None) -> SealedBatch:
    """Read a batch back; `digest` is its bytes', where that is known already.

    Raises `JournalDamaged` when the bytes are not a batch of this format at this position.
    """
    try:
        batch = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalDamaged(f"the batch at position {position} cannot be read", position=position) from error
    if batch.format != FORMAT:
        raise JournalDamaged(
            f"the batch at position {position} has format {batch.format}; this version reads format {FORMAT}",
            position=position,
        )
    if batch.position != position:
        raise JournalDamaged(f"the batch at position {position} says it is at {batch.position}", position=position)
    return SealedBatch(batch=batch, body=body, digest=log_digest(body) if digest is None else digest)
