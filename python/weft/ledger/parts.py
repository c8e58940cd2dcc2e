"""A batch as layers keep it: one envelope, or several where one would be larger than a layer takes.

A log may hold a batch that no layer would take whole: it was written before there was a layer, or under one that took
more. Such a batch goes as parts, each in an envelope of its own that is signed, names the batch's position, and says
the digest of the whole, how many parts there are and which it is. The batch is used only when every part is there and
the digest is right, so a rebuild knows no difference.

What if a layer turns out to take less than before? The batch is cut smaller, and parts of both sizes may lie there:
each size is whole by itself, and they give one batch. Two sizes may make equally many parts, so a part counts with
those that are as long as it is, and the last one with whichever the digest says.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from weft.ledger.envelope import OVERHEAD_BYTES, Envelope, Kind, wrap
from weft.ledger.layer import commit_to
from weft.ledger.snapshot import Piece
from weft.model.batch import SealedBatch, unseal
from weft.model.canonical import Digest, canonical_bytes, log_digest
from weft.model.errors import JournalDamaged
from weft.model.ids import Position
from weft.model.policy import BATCH_PART_BYTES, CELESTIA_BLOB_BYTES_MIN, LAYER_BLOB_BYTES_MAX
from weft.receipts import SigningKey

_PIECE_BYTES: Final = 128
"""More than a part's digest, numbers and names take."""
_ROOM_BYTES_MIN: Final = 512
"""A layer that takes less than this and an envelope is none."""
PARTED_BYTES_MIN: Final = OVERHEAD_BYTES + _PIECE_BYTES + _ROOM_BYTES_MIN
"""The least a layer must take for a batch to go there in parts."""

_decoder: Final = msgspec.msgpack.Decoder(Piece)


def wrap_batch(key: SigningKey, sealed: SealedBatch, blob_bytes_max: int) -> list[bytes]:
    """A batch in envelopes that have at most so many bytes; in one that has more where even parts would not fit."""
    batch, body = sealed.batch, sealed.body
    if len(body) + OVERHEAD_BYTES <= blob_bytes_max or blob_bytes_max < PARTED_BYTES_MIN:
        return [wrap(key, batch.cluster_id, Kind.BATCH, batch.position, body)]
    room = min(BATCH_PART_BYTES, blob_bytes_max - OVERHEAD_BYTES - _PIECE_BYTES)
    count = -(-len(body) // room)
    return [
        wrap(
            key,
            batch.cluster_id,
            Kind.PART,
            batch.position,
            canonical_bytes(
                Piece(digest=sealed.digest, index=index, count=count, body=body[index * room : (index + 1) * room])
            ),
        )
        for index in range(count)
    ]


def every_cut(key: SigningKey, sealed: SealedBatch, blob_bytes_max: int) -> Iterator[list[bytes]]:
    """A batch as it goes to layers now, then as it would have gone under the limits that layers may have had."""
    size_bytes = len(sealed.body) + OVERHEAD_BYTES
    sizes = [blob_bytes_max, size_bytes]
    limit_bytes = LAYER_BLOB_BYTES_MAX
    while limit_bytes >= CELESTIA_BLOB_BYTES_MIN:
        sizes.append(limit_bytes)
        limit_bytes //= 2
    # Whatever takes it whole takes it in the same envelope.
    for size in dict.fromkeys(min(size, size_bytes) for size in sizes):
        yield wrap_batch(key, sealed, size)


def find_blob(key: SigningKey, sealed: SealedBatch, commitment: str, blob_bytes_max: int) -> bytes | None:
    """The blob of a batch that has a commitment, however the batch was cut; None when it is none of this batch."""
    for blobs in every_cut(key, sealed, blob_bytes_max):
        for blob in blobs:
            if commit_to(blob) == commitment:
                return blob
    return None


class PartTray:
    """Parts that were found, until one of their batches is whole."""

    def __init__(self, is_known: Callable[[Position, Digest], bool] = lambda _, __: False) -> None:
        """`is_known` says of a batch that no more parts of it are wanted."""
        self._is_known = is_known
        self._found: dict[tuple[Position, Digest], dict[int, _Cuts]] = {}

    def add(self, envelope: Envelope) -> SealedBatch | None:
        """One more part; the batch when it was the last that was missing. Raises `JournalDamaged`."""
        assert envelope.kind is Kind.PART, "a tray holds parts"
        position = Position(envelope.sequence)
        try:
            piece = _decoder.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(position, "cannot be read") from error
        if not 0 <= piece.index < piece.count:
            raise _damaged(position, f"is number {piece.index} of {piece.count}")
        digest = Digest(piece.digest)
        if self._is_known(position, digest):
            return None
        cuts = self._found.setdefault((position, digest), {}).setdefault(piece.count, _Cuts(piece.count))
        body = cuts.add(piece, digest)
        if body is not None:
            del self._found[(position, digest)]
            return unseal(body, position, digest)
        if cuts.is_exactly_one:
            # It is kept all the same: it may be of another cut, the rest of which is still to come.
            raise _damaged(position, "is of another batch than it says")
        return None


class _Cuts:
    """Parts of one batch, from all the times it was cut into so many."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._bodies: dict[int, dict[int, bytes]] = {}

    @property
    def is_exactly_one(self) -> bool:
        """Whether there is one of each, all but the last of one size, as from one cut."""
        if len(self._bodies) < self._count or any(len(sizes) > 1 for sizes in self._bodies.values()):
            return False
        return len({size for index, sizes in self._bodies.items() if index < self._count - 1 for size in sizes}) <= 1

    def add(self, piece: Piece, digest: Digest) -> bytes | None:
        """The whole, where one more part makes one that has this digest."""
        self._bodies.setdefault(piece.index, {})[len(piece.body)] = piece.body
        if len(self._bodies) < self._count:
            return None
        last = self._bodies[self._count - 1].values()
        for size_bytes in self._bodies[0]:
            before = [self._bodies[index].get(size_bytes) for index in range(self._count - 1)]
            if None in before:
                continue
            beginning = b"".join(body for body in before if body is not None)
            for body in last:
                whole = beginning + body
                if log_digest(whole) == digest:
                    return whole
        return None


def _damaged(position: Position, what: str) -> JournalDamaged:
    return JournalDamaged(f"a part of the batch at position {position} {what}", position=position)
