"""The store: objects on this machine's disk, each whole in a file named by its SHA-256.

    DIR/objects/ab/ab12…            the bytes
    DIR/objects/ab/ab12….chunks     the SHA-256 of each 16 MiB chunk, 32 bytes after 32 bytes
    DIR/incoming/                   what is being received; emptied when the store is opened
    DIR/lock                        held by the process that uses the store

A file comes under its name complete or not at all: it is written beside, hashed on the way, synced, and renamed when
the hash is the name. The chunk hashes are synced and renamed before it, so that a file under its name always has them.
They say of each chunk what the name only says of the whole; a file that either of them contradicts is corrupt.

What if the disk is full, or refuses to be written? The put fails with an error that says so, and what was received is
thrown away; objects that are there are there. What if a file was changed behind the store's back? Whoever reads it
gets `ObjectCorrupt` and no bytes, and so does the scrubber, which need not wait to be asked. What if it cannot be read
because the machine is short of descriptors or memory, or somebody took away a right? That is `StoreUnreadable`, and the
copy stays what it was: only a medium that lost it, a file that is gone, or bytes that are others, are a loss.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from weft.agent.disk import Disk, RealDisk
from weft.model.errors import (
    Misconfigured,
    ObjectCorrupt,
    ObjectNotFound,
    StoreFailed,
    StoreFull,
    StoreUnreadable,
    WeftError,
)
from weft.model.object import ObjectHash, chunk_count, chunk_size, is_content_hash
from weft.model.policy import CHUNK_BYTES, STORE_SPARE_BYTES

_DIGEST_BYTES: Final = 32
_CHUNKS: Final = ".chunks"
_OUT_OF_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOST: Final = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.ENODATA,
        errno.EBADMSG,
        errno.EILSEQ,
        errno.EUCLEAN,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
    }
)
"""What a kernel says of a file whose bytes are lost: the medium gave none, they fail their checksum, or there is no
such file. Everything else (descriptors or memory that ran out, a right that is missing, an interruption) is about this
process at this moment, and says nothing of the bytes."""


class Store:
    """The objects of one directory. Safe to use from several threads. A context manager that lets go of the directory.

    `capacity_bytes` is how much objects may take in all, None for as much as the disk has.
    """

    def __init__(
        self,
        directory: Path,
        *,
        capacity_bytes: int | None = None,
        spare_bytes: int = STORE_SPARE_BYTES,
        disk: Disk | None = None,
    ) -> None:
        self._directory = directory
        self._objects = directory / "objects"
        self._incoming = directory / "incoming"
        self._capacity_bytes = capacity_bytes
        self._spare_bytes = spare_bytes
        self._disk: Disk = disk or RealDisk()
        self._lock = threading.Lock()
        self._sizes: dict[ObjectHash, int] = {}
        self._promised_bytes = 0
        self._used_bytes = 0
        self._received = 0
        self._descriptor = self._take()
        try:
            self._find_objects()
        except OSError as error:
            os.close(self._descriptor)
            raise self._failed("read what is there", error) from error

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory

    @property
    def used_bytes(self) -> int:
        """What the objects take."""
        return self._used_bytes

    @property
    def free_bytes(self) -> int:
        """How much more the objects may take, what is being received not counted: it may yet come to nothing."""
        try:
            on_disk = self._disk.free_bytes(self._directory) - self._spare_bytes
        except OSError:
            # A disk that does not even say how full it is takes nothing more.
            return 0
        if self._capacity_bytes is not None:
            on_disk = min(on_disk, self._capacity_bytes - self._used_bytes)
        return max(0, on_disk)

    def hashes(self) -> list[ObjectHash]:
        """Every object that is there."""
        with self._lock:
            return sorted(self._sizes)

    def size_of(self, object_hash: ObjectHash) -> int | None:
        """How long an object is, or None when it is not there."""
        return self._sizes.get(object_hash)

    def begin(self, object_hash: ObjectHash, size_bytes: int) -> "Draft":
        """Begin to receive an object. Raises `StoreFull` at once when there is no room for all of it, or `StoreFailed`.

        What is being received counts as taken, so that two objects that fit one by one and not together are not both
        begun.
        """
        if not is_content_hash(object_hash):
            raise ObjectNotFound(
                f"{object_hash!r} is not a SHA-256, so nobody could tell whether bytes are that object",
                hash=object_hash,
            )
        with self._lock:
            free_bytes = max(0, self.free_bytes - self._promised_bytes)
            if size_bytes > free_bytes:
                raise StoreFull(
                    f"{self._directory} has room for {free_bytes} bytes and the object has {size_bytes}; free some, or "
                    "give the store more with --store-capacity",
                    path=str(self._directory),
                    wanted_bytes=size_bytes,
                    free_bytes=free_bytes,
                )
            self._promised_bytes += size_bytes
            self._received += 1
            path = self._incoming / f"{object_hash}.{self._received}"
        try:
            descriptor = self._disk.create(path)
        except OSError as error:
            self._keep_no_promise(size_bytes)
            raise self._failed("begin a file", error) from error
        return Draft(self, object_hash, size_bytes, path, descriptor)

    def read_chunk(self, object_hash: ObjectHash, index: int, into: memoryview) -> bytes:
        """Fill `into`, which has the chunk's size, and give the chunk's SHA-256.

        Raises `ObjectNotFound`, `ObjectCorrupt` when the bytes are not what was stored, and `StoreUnreadable` when this
        machine could not look.
        """
        digest = self._stored_digest(object_hash, index)
        path = self._path(object_hash)
        try:
            count = self._disk.read(path, index * CHUNK_BYTES, into)
        except FileNotFoundError as error:
            raise self._unknown(object_hash) from error
        except OSError as error:
            raise self._unreadable(object_hash, error) from error
        if count < len(into) or hashlib.sha256(into).digest() != digest:
            raise ObjectCorrupt(f"chunk {index} of {object_hash} is not what was stored in {path}", hash=object_hash)
        return digest

    def check_chunk(self, object_hash: ObjectHash, index: int, whole: "hashlib._Hash") -> int:
        """Read a chunk and add it to the hash of the whole; how long it was. Raises as `read_chunk` does."""
        size_bytes = self._size(object_hash)
        chunk = memoryview(bytearray(chunk_size(size_bytes, index)))
        self.read_chunk(object_hash, index, chunk)
        whole.update(chunk)
        return len(chunk)

    def check(self, object_hash: ObjectHash) -> None:
        """Read an object to its end. Raises `ObjectNotFound`, `ObjectCorrupt` when it is not what its name says, and
        `StoreUnreadable`, which says nothing of the object.
        """
        whole = hashlib.sha256()
        size_bytes = self._size(object_hash)
        for index in range(chunk_count(size_bytes)):
            self.check_chunk(object_hash, index, whole)
        self.check_whole(object_hash, whole)

    def check_whole(self, object_hash: ObjectHash, whole: "hashlib._Hash") -> None:
        """Compare the hash of all chunks, and the length of the file, with what they are to be."""
        try:
            on_disk = self._path(object_hash).stat().st_size
        except OSError as error:
            raise self._unreadable(object_hash, error) from error
        if whole.hexdigest() != object_hash or on_disk != self._size(object_hash):
            raise ObjectCorrupt(f"the file of {object_hash} does not hold that object", hash=object_hash)

    def remove(self, object_hash: ObjectHash) -> bool:
        """Take an object away; False when it was not there. Raises `StoreFailed` when the disk keeps it.

        It is forgotten first: a file the disk will not let go of is never served again, and found when the store is
        next opened.
        """
        with self._lock:
            size_bytes = self._sizes.pop(object_hash, None)
            if size_bytes is None:
                return False
            self._used_bytes -= size_bytes
        path = self._path(object_hash)
        try:
            self._disk.remove(path)
            self._disk.remove(path.with_name(path.name + _CHUNKS))
        except OSError as error:
            raise self._failed(f"remove {object_hash}", error) from error
        return True

    def close(self) -> None:
        """Let go of the directory. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> int:
        """The directories, and the lock that keeps two processes from emptying each other's incoming files."""
        try:
            for folder in (self._objects, self._incoming):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(
                f"objects cannot be kept in {self._directory}: {error.strerror}; give another place with --objects",
                variable="--objects",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Misconfigured(
                f"another process keeps objects in {self._directory}; give this one a place of its own with --objects",
                variable="--objects",
            ) from error
        return descriptor

    def _find_objects(self) -> None:
        for left_over in self._incoming.iterdir():
            self._disk.remove(left_over)
        for path in self._objects.glob("??/*"):
            if not is_content_hash(ObjectHash(path.name)):
                continue
            size_bytes = path.stat().st_size
            chunks = path.with_name(path.name + _CHUNKS)
            if _length(chunks) != chunk_count(size_bytes) * _DIGEST_BYTES:
                # Nothing of this store leaves such a file; it is not the object, or nothing says what its parts are.
                self._disk.remove(path)
                self._disk.remove(chunks)
                continue
            self._sizes[ObjectHash(path.name)] = size_bytes
            self._used_bytes += size_bytes

    def _path(self, object_hash: ObjectHash) -> Path:
        return self._objects / object_hash[:2] / object_hash

    def _size(self, object_hash: ObjectHash) -> int:
        size_bytes = self._sizes.get(object_hash)
        if size_bytes is None:
            raise self._unknown(object_hash)
        return size_bytes

    def _stored_digest(self, object_hash: ObjectHash, index: int) -> bytes:
        if not 0 <= index < chunk_count(self._size(object_hash)):
            raise ObjectNotFound(f"{object_hash} has no chunk {index}", hash=object_hash)
        path = self._path(object_hash)
        digest = bytearray(_DIGEST_BYTES)
        try:
            count = self._disk.read(path.with_name(path.name + _CHUNKS), index * _DIGEST_BYTES, memoryview(digest))
        except OSError as error:
            raise self._unreadable(object_hash, error) from error
        if count < _DIGEST_BYTES:
            raise ObjectCorrupt(f"the chunk hashes of {object_hash} are cut short", hash=object_hash)
        return bytes(digest)

    def _keep(self, draft: "Draft", digests: bytes) -> None:
        """Give a complete file its name. Nothing is there under the name before the last step, and all of it after."""
        path = self._path(draft.object_hash)
        chunks = path.with_name(path.name + _CHUNKS)
        beside = draft.path.with_name(draft.path.name + _CHUNKS)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = self._disk.create(beside)
            try:
                self._disk.write(descriptor, memoryview(digests))
                self._disk.sync(descriptor)
            finally:
                os.close(descriptor)
            with self._lock:
                # Two may have received the same object at once. The second finds it there and replaces like by like.
                self._disk.rename(beside, chunks)
                self._disk.rename(draft.path, path)
                self._disk.sync_folder(path.parent)
                if draft.object_hash not in self._sizes:
                    self._sizes[draft.object_hash] = draft.size_bytes
                    self._used_bytes += draft.size_bytes
        except OSError as error:
            with contextlib.suppress(OSError):
                self._disk.remove(beside)
            raise self._failed(f"keep {draft.object_hash}", error) from error

    def _keep_no_promise(self, size_bytes: int) -> None:
        with self._lock:
            self._promised_bytes -= size_bytes

    def _unknown(self, object_hash: ObjectHash) -> ObjectNotFound:
        return ObjectNotFound(f"no copy of {object_hash} is kept here", hash=object_hash)

    def _unreadable(self, object_hash: ObjectHash, error: OSError) -> WeftError:
        """What the kernel's word means: that the disk has lost the bytes, or that nobody could look just now."""
        if error.errno in _LOST:
            return ObjectCorrupt(f"the file of {object_hash} cannot be read: {error.strerror}", hash=object_hash)
        return StoreUnreadable(
            f"the file of {object_hash} cannot be read now: {error.strerror}; its copy is kept, and read again later",
            path=str(self._directory),
            reason=errno.errorcode.get(error.errno or 0, ""),
        )

    def _failed(self, doing: str, error: OSError) -> WeftError:
        if error.errno in _OUT_OF_ROOM:
            return StoreFull(
                f"the disk under {self._directory} is full: could not {doing}", path=str(self._directory), free_bytes=0
            )
        return StoreFailed(
            f"the disk under {self._directory} did not let this node {doing}: {error.strerror}",
            path=str(self._directory),
            reason=errno.errorcode.get(error.errno or 0, ""),
        )


def _length(path: Path) -> int | None:
    """How long a file is, None when there is none. One that nobody can look at just now is not one that is missing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


class Draft:
    """An object that is being received. It ends with `commit` or `discard`, and a context manager ends it."""

    def __init__(self, store: Store, object_hash: ObjectHash, size_bytes: int, path: Path, descriptor: int) -> None:
        self.object_hash = object_hash
        self.size_bytes = size_bytes
        self.path = path
        self._store = store
        self._descriptor = descriptor
        self._whole = hashlib.sha256()
        self._digests = bytearray()
        self._received_bytes = 0
        self._open = True

    def append(self, chunk: memoryview) -> None:
        """Take the next chunk. Raises `StoreFull` and `StoreFailed`, after which the draft can only be discarded."""
        if self._received_bytes + len(chunk) > self.size_bytes:
            raise ObjectCorrupt(f"more than {self.size_bytes} bytes came for {self.object_hash}", hash=self.object_hash)
        try:
            self._store._disk.write(self._descriptor, chunk)  # noqa: SLF001 — a draft is the store's own.
        except OSError as error:
            raise self._store._failed("write", error) from error  # noqa: SLF001 — as above.
        self._whole.update(chunk)
        self._digests += hashlib.sha256(chunk).digest()
        self._received_bytes += len(chunk)

    def commit(self) -> None:
        """Keep the object. Raises `ObjectCorrupt` when it is another than was announced, `StoreFull`, `StoreFailed`."""
        try:
            if self._received_bytes != self.size_bytes or self._whole.hexdigest() != self.object_hash:
                raise ObjectCorrupt(
                    f"the {self._received_bytes} bytes that came are not {self.object_hash}", hash=self.object_hash
                )
            try:
                self._store._disk.sync(self._descriptor)  # noqa: SLF001 — as above.
            except OSError as error:
                raise self._store._failed("sync", error) from error  # noqa: SLF001 — as above.
            self._store._keep(self, bytes(self._digests))  # noqa: SLF001 — as above.
        finally:
            self.discard()

    def discard(self) -> None:
        """Throw away what was received, unless it was kept. Ending twice is harmless."""
        if not self._open:
            return
        self._open = False
        os.close(self._descriptor)
        # What cannot be removed now is removed when the store is next opened.
        with contextlib.suppress(OSError):
            self._store._disk.remove(self.path)  # noqa: SLF001 — as above.
        self._store._keep_no_promise(self.size_bytes)  # noqa: SLF001 — as above.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
