"""The file a witness keeps blobs in: only ever added to, on the disk before anybody is told.

    blobs.log   "WEFTBLOB" | u32 version | u32 zero, then records without a gap:
                0 "WBR1" | 4 u32 length | 8 u64 height | 16 commitment, 32 | 48 CRC-32 of the 48 bytes before | 52 blob
    torn-N      what stood at offset N and was no whole record when the file was opened
    lock        held by the process that writes

All integers are little-endian. Heights grow with the offset; a validator leaves gaps in them, so that what several
validators keep lines up.

What if power is cut while a record is written? Nobody was told of it, and what there is of it is no whole record: when
the file is opened again it is put aside and the file ends before it. What if a byte changes later? In a blob, whoever
reads it gets `BlobDamaged` and no bytes, and putting the blob again heals it. In a record's head, the file is searched
for the next whole one behind it, so that what follows is not lost with it; the place is counted and named. What if a
blob holds the bytes of a record? It is a blob: only behind a damaged head could it be taken for one, and there what
agrees with the rest of the file is preferred.
"""

import errno
import fcntl
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from weft.model.canonical import sha3_hex
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed, LayerUnknown, Misconfigured

FILE_NAME: Final = "blobs.log"
LOCK_NAME: Final = "lock"
_START: Final = b"WEFTBLOB" + struct.pack("<II", 1, 0)
_MAGIC: Final = b"WBR1"
_HEAD: Final = struct.Struct("<4sIQ32s")
_CRC: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _CRC.size
_SEARCH_BYTES: Final = 1 << 20
_HEIGHT_MAX: Final = 2**53 - 1
"""What a list can say; no witness comes so far."""
_OUT_OF_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Entry(NamedTuple):
    """Where a blob is."""

    height: int
    commitment: str
    offset: int
    size_bytes: int


class _Run(NamedTuple):
    """Records without a gap between two offsets."""

    begin: int
    end: int
    entries: list[Entry]


class Draft(NamedTuple):
    """A blob to keep, and the height it should at least have."""

    commitment: str
    blob: bytes
    height_min: int


class BlobLog:
    """The log of one directory. One thread uses it at a time; `found` and `after` may be called from another."""

    def __init__(self, directory: Path) -> None:
        """Open or create it. Raises `Misconfigured` when the directory cannot be used, or another process has it."""
        self.path = directory / FILE_NAME
        self.damaged_spans: list[tuple[int, int]] = []
        self.torn_bytes = 0
        self._entries: list[Entry] = []
        self._by_commitment: dict[str, Entry] = {}
        self._refuses: str | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._take_lock(directory)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    self._size_bytes = self._begin()
                    self._find_records()
                    # A life before this one may have ended between writing a record and syncing it. Who puts its blob
                    # again is told at once that it is kept, so it has to be on the disk by then.
                    os.fsync(self._file)
                    _sync_folder(directory)
                except BaseException:
                    os.close(self._file)
                    raise
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise Misconfigured(f"cannot use {directory}: {error.strerror}", variable="--data") from error

    @property
    def height(self) -> int:
        """The height of the last blob kept, 0 when there is none."""
        return self._entries[-1].height if self._entries else 0

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self._size_bytes

    @property
    def count(self) -> int:
        """How many blobs are kept."""
        return len(self._by_commitment)

    @property
    def refuses(self) -> str | None:
        """Why nothing more is taken, or None."""
        return self._refuses

    def found(self, commitment: str) -> Entry | None:
        """Where a blob is, if it is kept."""
        return self._by_commitment.get(commitment)

    def after(self, height: int, count_max: int) -> tuple[Sequence[Entry], bool]:
        """The blobs above a height in the order of heights, and whether these are the last. None of them is the end."""
        kept: list[Entry] = []
        at = bisect_right(self._entries, height, key=lambda entry: entry.height)
        while len(kept) < count_max and at < len(self._entries):
            entry = self._entries[at]
            at += 1
            # A blob that was put again after it was damaged is listed where it is whole. What stands behind it fills
            # the page: one without a blob would have the reader ask for the same page again and again.
            if self._by_commitment[entry.commitment] is entry:
                kept.append(entry)
        return kept, at >= len(self._entries)

    def read(self, commitment: str) -> bytes:
        """A blob, verified. Raises `BlobMissing`, `BlobDamaged`."""
        entry = self._by_commitment.get(commitment)
        if entry is None:
            raise BlobMissing(f"no blob {commitment} is kept here", commitment=commitment)
        try:
            blob = _read(self._file, entry.offset, entry.size_bytes)
        except OSError as error:
            raise _damaged(self.path, entry, error.strerror or "") from error
        if sha3_hex(blob) != commitment:
            raise _damaged(self.path, entry, "its bytes are not what was put")
        return blob

    def append(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Keep blobs in this order, all on the disk when this returns. One kept already stays where it is.

        Raises `LayerFailed` when none was kept, and `LayerUnknown` when the disk did not say; after that nothing is
        taken until the file was opened again, because a disk that failed a sync may since have dropped what it held.
        """
        if self._refuses is not None:
            raise LayerFailed(f"{self.path} takes nothing: {self._refuses}")
        kept: dict[str, Entry] = {}
        fresh: list[Entry] = []
        parts: list[bytes] = []
        height, offset = self.height, self._size_bytes
        for draft in drafts:
            if draft.commitment in kept or self._is_kept(draft.commitment, kept):
                continue
            height = max(height + 1, draft.height_min)
            head = _HEAD.pack(_MAGIC, len(draft.blob), height, bytes.fromhex(draft.commitment))
            entry = Entry(height, draft.commitment, offset + HEAD_BYTES, len(draft.blob))
            kept[draft.commitment] = entry
            fresh.append(entry)
            parts += [head, _CRC.pack(zlib.crc32(head)), draft.blob]
            offset += HEAD_BYTES + len(draft.blob)
        if fresh:
            self._write(b"".join(parts), offset)
            for entry in fresh:
                self._add(entry)
        return [kept[draft.commitment] for draft in drafts]

    def close(self) -> None:
        """Let the next process in."""
        os.close(self._file)
        os.close(self._lock)

    def _is_kept(self, commitment: str, kept: dict[str, Entry]) -> bool:
        """Whether a blob is there and whole; then it is noted in `kept`."""
        entry = self._by_commitment.get(commitment)
        if entry is None:
            return False
        try:
            self.read(commitment)
        except BlobDamaged:
            return False
        kept[commitment] = entry
        return True

    def _write(self, data: bytes, end: int) -> None:
        try:
            view, offset = memoryview(data), self._size_bytes
            while view:
                count = os.pwrite(self._file, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            self._take_back()
            why = "the disk is full" if error.errno in _OUT_OF_ROOM else str(error.strerror)
            raise LayerFailed(f"could not write to {self.path}: {why}") from error
        try:
            os.fsync(self._file)
        except OSError as error:
            self._refuses = f"the disk failed to sync ({error.strerror}); start the server again once it is mended"
            raise LayerUnknown(f"{self.path}: {self._refuses}") from error
        self._size_bytes = end

    def _take_back(self) -> None:
        """Leave nothing of a record that was not written whole."""
        try:
            os.ftruncate(self._file, self._size_bytes)
        except OSError as error:
            self._refuses = f"the disk failed in the middle of a record ({error.strerror}); start the server again"

    def _take_lock(self, directory: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured(
                f"{directory} is used by another witness; stop that one, or give this one a directory of its own",
                variable="--data",
            ) from error

    def _begin(self) -> int:
        """The size of the file, which begins as one of these does."""
        size_bytes = os.fstat(self._file).st_size
        start = _read(self._file, 0, min(size_bytes, len(_START)))
        if size_bytes < len(_START) and _START.startswith(start):
            # New, or created in the moment power was cut.
            os.pwrite(self._file, _START, 0)
            os.fsync(self._file)
            return len(_START)
        if start != _START:
            raise Misconfigured(f"{self.path} is not a log of blobs that this version reads", variable="--data")
        return size_bytes

    def _find_records(self) -> None:
        offset, end = len(_START), self._size_bytes
        while offset < end:
            run = self._run_from(offset, end, self.height)
            if run is None:
                self._find_others(offset, end)
                return
            for entry in run.entries:
                self._add(entry)
            offset = run.end

    def _find_others(self, offset: int, end: int) -> None:
        """Go on behind a head that is damaged, or put aside what is no whole record and has none behind it.

        A blob may hold the bytes of a record, being a part of such a file itself. So the head's own word for its length
        is taken where a record stands behind it; else of what looks like records the run that goes furthest is, and
        then what agrees with it, before and behind it, by place and by height.
        """
        while offset < end:
            head = _read(self._file, offset, HEAD_BYTES)
            said = offset + HEAD_BYTES + _HEAD.unpack_from(head)[1] if len(head) == HEAD_BYTES else end
            # One that is whole, and whose blob is not, was cut off in the middle; nothing stands behind it.
            is_cut_off = _is_head(head) and said > end
            following = self._run_from(said, end, self.height) if said < end else None
            runs = [following] if following is not None else self._choose(self._runs(offset + 1, end, self.height), end)
            if is_cut_off or not runs:
                self._put_aside(offset, end)
                return
            # What is behind the first of them is looked at anew: its own damaged head may say where it ends.
            self.damaged_spans.append((offset, runs[0].begin))
            for entry in runs[0].entries:
                self._add(entry)
            offset = runs[0].end

    def _run_from(self, offset: int, end: int, height: int) -> "_Run | None":
        """The whole records that stand at an offset one behind the other, their heights growing."""
        entries: list[Entry] = []
        at = offset
        while at < end and (entry := self._record_at(at, end)) is not None and entry.height > height:
            entries.append(entry)
            height, at = entry.height, entry.offset + entry.size_bytes
        return _Run(offset, at, entries) if entries else None

    def _runs(self, begin: int, end: int, height: int) -> "list[_Run]":
        """Everything that looks like records, those inside the blobs of others too."""
        runs: list[_Run] = []
        seen: set[int] = set()
        at = begin
        while at < end:
            window = _read(self._file, at, _SEARCH_BYTES + len(_MAGIC) - 1)
            place = window.find(_MAGIC)
            while place >= 0:
                if at + place not in seen and (run := self._run_from(at + place, end, height)) is not None:
                    runs.append(run)
                    seen.update(entry.offset - HEAD_BYTES for entry in run.entries)
                place = window.find(_MAGIC, place + 1)
            at += _SEARCH_BYTES
        return runs

    def _choose(self, runs: "list[_Run]", end: int) -> "list[_Run]":
        """Of runs, those that agree: the longest, and those before and behind it that leave room for it."""
        chosen: list[_Run] = []
        # One that reaches the end of the file is no piece of a blob.
        for run in sorted(runs, key=lambda one: (one.end < end, one.begin - one.end, one.begin)):
            at = bisect_right(chosen, run.begin, key=lambda one: one.begin)
            before, behind = chosen[at - 1] if at > 0 else None, chosen[at] if at < len(chosen) else None
            if before is not None and (before.end > run.begin or before.entries[-1].height >= run.entries[0].height):
                continue
            if behind is not None and (run.end > behind.begin or run.entries[-1].height >= behind.entries[0].height):
                continue
            chosen.insert(at, run)
        return chosen

    def _record_at(self, offset: int, end: int) -> Entry | None:
        """The record that begins at an offset, if a whole one does."""
        head = _read(self._file, offset, HEAD_BYTES)
        if not _is_head(head):
            return None
        _, size_bytes, height, commitment = _HEAD.unpack_from(head)
        if offset + HEAD_BYTES + size_bytes > end or height > _HEIGHT_MAX:
            return None
        return Entry(height, commitment.hex(), offset + HEAD_BYTES, size_bytes)

    def _put_aside(self, offset: int, end: int) -> None:
        """Cut the end off, having kept it: whoever looks for what was in it can still look."""
        aside = os.open(
            self.path.with_name(f"torn-{offset}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            at = offset
            while at < end:
                part = memoryview(_read(self._file, at, _SEARCH_BYTES))
                at += len(part)
                while part:
                    part = part[os.write(aside, part) :]
            os.fsync(aside)
        finally:
            os.close(aside)
        os.ftruncate(self._file, offset)
        os.fsync(self._file)
        self.torn_bytes = end - offset
        self._size_bytes = offset

    def _add(self, entry: Entry) -> None:
        # In this order: who lists from another thread looks up every entry it sees.
        self._by_commitment[entry.commitment] = entry
        self._entries.append(entry)


def _is_head(head: bytes) -> bool:
    """Whether this is the head of a record as it was written."""
    if len(head) < HEAD_BYTES or not head.startswith(_MAGIC):
        return False
    (checksum,) = _CRC.unpack_from(head, _HEAD.size)
    return bool(zlib.crc32(head[: _HEAD.size]) == checksum)


def _read(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """So many bytes, or fewer at the end of the file."""
    parts: list[bytes] = []
    while size_bytes and (part := os.pread(descriptor, size_bytes, offset)):
        parts.append(part)
        offset, size_bytes = offset + len(part), size_bytes - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, entry: Entry, why: str) -> BlobDamaged:
    return BlobDamaged(
        f"blob {entry.commitment} at offset {entry.offset} of {path} is damaged: {why}; put it again to heal it",
        commitment=entry.commitment,
        height=entry.height,
    )
