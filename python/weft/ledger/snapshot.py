"""Snapshots on a disk and in blobs: written whole or not at all, signed, and doubted until they were verified.

A snapshot travels as pieces, each in a signed envelope of the log and small enough for every availability layer. A file
holds the same envelopes one after the other, so what is on the disk can be put into a layer as it is, and the other
way round. A piece names the digest of the whole, how many pieces there are and which it is; the whole is used only when
every piece is there and the digest is right.

    <directory>/<position, 16 digits>.snapshot        4 u32 length | envelope | 4 u32 length | envelope …

What if the process dies while it writes? The file has another name until it is synced, and what has that name is
removed at the next start. What if the newest file is damaged? The one before it is used, and the log from there on.
"""

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from weft.core.snapshot import Snapshot, parse_snapshot, snapshot_bytes
from weft.ledger.envelope import Envelope, Kind, unwrap, wrap
from weft.model.canonical import canonical_bytes
from weft.model.errors import BlobForeign, SnapshotDamaged, SnapshotFailed
from weft.model.ids import ClusterId, Position
from weft.model.policy import SNAPSHOT_PIECE_BYTES, SNAPSHOTS_KEPT
from weft.receipts import PublicKey, SigningKey

_LENGTH: Final = struct.Struct("<I")
_NAME: Final = re.compile(r"([0-9]{16})\.snapshot")
_UNFINISHED: Final = ".unfinished"


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a snapshot's bytes, and what the whole is."""

    digest: bytes
    index: int
    count: int
    body: bytes


_decoder: Final = msgspec.msgpack.Decoder(Piece)


def seal_snapshot(snapshot: Snapshot, key: SigningKey) -> list[bytes]:
    """A snapshot as signed envelopes, in order."""
    body = snapshot_bytes(snapshot)
    digest = hashlib.sha3_256(body).digest()
    parts = [body[start : start + SNAPSHOT_PIECE_BYTES] for start in range(0, len(body), SNAPSHOT_PIECE_BYTES)]
    return [
        wrap(
            key,
            snapshot.ledger.cluster_id,
            Kind.SNAPSHOT,
            snapshot.position,
            canonical_bytes(Piece(digest=digest, index=index, count=len(parts), body=part)),
        )
        for index, part in enumerate(parts)
    ]


def unseal_snapshot(
    envelopes: Iterable[bytes], public_keys: Collection[PublicKey], cluster_id: ClusterId | None = None
) -> Snapshot:
    """A snapshot from its envelopes, in any order. Raises `SnapshotDamaged`."""
    opened: list[Envelope] = []
    for sealed in envelopes:
        try:
            opened.append(unwrap(sealed, public_keys, cluster_id))
        except BlobForeign as error:
            raise SnapshotDamaged(f"a piece of the snapshot is not this cluster's: {error.message}") from error
    return join_pieces(opened)


def join_pieces(opened: Sequence[Envelope]) -> Snapshot:
    """A snapshot from envelopes that were verified already. Raises `SnapshotDamaged`."""
    if not opened:
        raise SnapshotDamaged("a snapshot has at least one piece, and none is here")
    position = Position(opened[0].sequence)
    pieces: dict[int, Piece] = {}
    for envelope in opened:
        try:
            piece = _decoder.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(position, "has a piece that cannot be read") from error
        if envelope.kind is not Kind.SNAPSHOT or envelope.sequence != position:
            raise _damaged(position, "is mixed with something else")
        pieces[piece.index] = piece
    first = next(iter(pieces.values()))
    if sorted(pieces) != list(range(first.count)):
        raise _damaged(position, f"has {len(pieces)} of its {first.count} pieces")
    body = b"".join(pieces[index].body for index in range(first.count))
    if any(piece.digest != first.digest for piece in pieces.values()):
        raise _damaged(position, "has pieces of two snapshots")
    if hashlib.sha3_256(body).digest() != first.digest:
        raise _damaged(position, "does not have the digest its pieces name")
    snapshot = parse_snapshot(body, position)
    if any(envelope.cluster_id != snapshot.ledger.cluster_id for envelope in opened):
        raise _damaged(position, "is of another cluster than its envelopes say")
    return snapshot


class SnapshotFolder:
    """Snapshots in a directory, the newest few."""

    def __init__(self, directory: Path, key: SigningKey, kept: int = SNAPSHOTS_KEPT) -> None:
        self.directory = directory
        self._key = key
        self._kept = kept

    def open(self) -> None:
        """Make the directory, and remove what an earlier process did not finish."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for unfinished in self.directory.glob(f"*{_UNFINISHED}"):
                unfinished.unlink()
        except OSError as error:
            raise self._failed("prepare", error) from error

    def write(self, snapshot: Snapshot) -> Path:
        """Keep a snapshot: it is on the disk, whole, when this returns. Older ones than the kept few are removed."""
        path = self._path(snapshot.position)
        try:
            self._write_file(path.with_suffix(_UNFINISHED), seal_snapshot(snapshot, self._key))
            self._name(path.with_suffix(_UNFINISHED), path)
            self._sync_directory()
            self._remove_old()
        except OSError as error:
            raise self._failed("write to", error) from error
        return path

    def positions(self) -> list[Position]:
        """What is there, newest first. Nothing has been verified."""
        with contextlib.suppress(FileNotFoundError):
            found = (_NAME.fullmatch(entry.name) for entry in self.directory.iterdir())
            return sorted((Position(int(name[1])) for name in found if name is not None), reverse=True)
        return []

    def envelopes(self, position: Position) -> list[bytes]:
        """A snapshot's envelopes as the file has them. Raises `SnapshotDamaged`."""
        try:
            content = self._path(position).read_bytes()
        except OSError as error:
            raise _damaged(position, f"cannot be read: {error.strerror}") from error
        envelopes, start = [], 0
        while start < len(content):
            end = start + _LENGTH.size
            if end > len(content) or (end := end + _LENGTH.unpack_from(content, start)[0]) > len(content):
                raise _damaged(position, "was cut off")
            envelopes.append(content[start + _LENGTH.size : end])
            start = end
        return envelopes

    def read(self, position: Position) -> Snapshot:
        """A snapshot, verified against the cluster's key. Raises `SnapshotDamaged`, naming the position."""
        try:
            snapshot = unseal_snapshot(self.envelopes(position), (self._key.public,))
        except SnapshotDamaged as error:
            raise _damaged(position, f"cannot be used: {error.message}") from error
        if snapshot.position != position:
            raise _damaged(position, f"holds the one of position {snapshot.position}")
        return snapshot

    def wipe(self) -> None:
        """Remove every snapshot."""
        for position in self.positions():
            self._path(position).unlink(missing_ok=True)

    def _path(self, position: int) -> Path:
        return self.directory / f"{position:016d}.snapshot"

    def _write_file(self, path: Path, envelopes: Iterable[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for envelope in envelopes:
                file.write(_LENGTH.pack(len(envelope)))
                file.write(envelope)
            file.flush()
            os.fsync(file.fileno())

    def _name(self, unfinished: Path, path: Path) -> None:
        unfinished.replace(path)

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove_old(self) -> None:
        for position in self.positions()[self._kept :]:
            self._path(position).unlink(missing_ok=True)

    def _failed(self, what: str, error: OSError) -> SnapshotFailed:
        return SnapshotFailed(f"cannot {what} {self.directory}: {error.strerror}", path=str(self.directory))


def _damaged(position: int, what: str) -> SnapshotDamaged:
    return SnapshotDamaged(f"the snapshot at position {position} {what}", position=position)
