"""The bytes the demo moves: real files, one after another, until there are enough of them.

A corpus is a list of pieces (file, how many of its bytes) that add up to a size, and two ways to go over it: as blocks,
for putting it into a region, and as a digest, for comparing with what came out. The files are read again for the
digest, so that a comparison is against the files and not against a copy the demo kept.
"""

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy
from msgspec import Struct

from weft.model.errors import BadArgument

# One read: large enough that the system calls vanish, small enough for a progress bar that moves.
BLOCK_BYTES = 2 << 20


class Piece(Struct, frozen=True, kw_only=True):
    """The first `size_bytes` bytes of a file."""

    path: Path
    size_bytes: int


class Corpus(Struct, frozen=True, kw_only=True):
    """Files laid end to end, some of them more than once, cut at `size_bytes`."""

    pieces: tuple[Piece, ...]
    size_bytes: int

    @classmethod
    def of_file(cls, file: Path, size_bytes: int) -> Self:
        """The file, whole, and again until there are at least `size_bytes`."""
        file_bytes = file.stat().st_size
        if file_bytes == 0:
            raise BadArgument(f"{file} is empty; give a file with bytes in it, or none to use Python's own")
        return cls._laid([Piece(path=file, size_bytes=file_bytes)], max(size_bytes, file_bytes))

    @classmethod
    def of_python(cls, size_bytes: int) -> Self:
        """The files of this Python installation in the order of their names, and again until there are enough."""
        library = Path(sysconfig.get_paths()["stdlib"])
        return cls._laid(list(_files_under(library, size_bytes)), size_bytes)

    @classmethod
    def _laid(cls, pieces: list[Piece], size_bytes: int) -> Self:
        laid: list[Piece] = []
        left_bytes = size_bytes
        while left_bytes > 0:
            for piece in pieces:
                taken_bytes = min(piece.size_bytes, left_bytes)
                laid.append(Piece(path=piece.path, size_bytes=taken_bytes))
                left_bytes -= taken_bytes
                if left_bytes == 0:
                    break
        return cls(pieces=tuple(laid), size_bytes=size_bytes)

    @property
    def file_count(self) -> int:
        """How many different files there are."""
        return len({piece.path for piece in self.pieces})

    def blocks(self) -> Iterator[bytes]:
        """The bytes in order, a block at a time; every block but the last is BLOCK_BYTES long."""
        pending = bytearray()
        for piece in self.pieces:
            with piece.path.open("rb") as file:
                left_bytes = piece.size_bytes
                while left_bytes > 0:
                    data = file.read(min(left_bytes, BLOCK_BYTES - len(pending)))
                    if not data:
                        raise BadArgument(f"{piece.path} became shorter while it was read; try again with a still file")
                    pending += data
                    left_bytes -= len(data)
                    if len(pending) == BLOCK_BYTES:
                        yield bytes(pending)
                        pending.clear()
        if pending:
            yield bytes(pending)


class Fingerprint(Struct, frozen=True, kw_only=True):
    """What two equal runs of bytes have in common: their SHA-256 and how often each byte value occurs."""

    sha256: str
    histogram: tuple[int, ...]


def fingerprint(blocks: Iterable[bytes | memoryview]) -> Fingerprint:
    """The fingerprint of blocks laid end to end."""
    digest = hashlib.sha256()
    counts = numpy.zeros(256, dtype=numpy.int64)
    for block in blocks:
        digest.update(block)
        counts += numpy.bincount(numpy.frombuffer(block, dtype=numpy.uint8), minlength=256)
    return Fingerprint(sha256=digest.hexdigest(), histogram=tuple(int(count) for count in counts))


def _files_under(folder: Path, size_bytes: int) -> Iterator[Piece]:
    """Files in a fixed order, no further than needed: links, empty files and what cannot be read are passed over."""
    found_bytes = 0
    for path in sorted(folder.rglob("*")):
        if found_bytes >= size_bytes:
            return
        try:
            if path.is_symlink() or not path.is_file():
                continue
            # A cache file may be rewritten while the demo runs; sources stay.
            if path.suffix == ".pyc":
                continue
            file_bytes = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError:
            continue
        if file_bytes:
            found_bytes += file_bytes
            yield Piece(path=path, size_bytes=file_bytes)
    if found_bytes == 0:
        raise BadArgument(f"there are no readable files under {folder}; give `weft demo` a file")
