"""The archive: every blob of a layer that forgets, on a disk of ours, and where in the layer's order each stood.

    DIR/blobs/ab/ab12…    the bytes, in a file named by their commitment; complete or not there at all
    DIR/index.sqlite      where each blob stands, what was sent and not yet seen to arrive, and how far was read

A blob's file is synced and renamed, and its folder synced, before the index speaks of it. What if a file is changed or
lost? Whoever reads it gets `BlobDamaged` or `BlobMissing` and no bytes. What if the index is lost? The files are still
there under their names, and reading the layer again finds their places, as far back as the layer remembers.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from weft.ledger.layer import Commitment, commit_to
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed

T = TypeVar("T")
INDEX_NAME: Final = "index.sqlite"
SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE places (
    height INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    mark BLOB NOT NULL,
    commitment TEXT NOT NULL,
    PRIMARY KEY (height, mark)
) WITHOUT ROWID;
CREATE INDEX places_by_commitment ON places (commitment, height);
CREATE TABLE sent (mark BLOB PRIMARY KEY, height INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE covered (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), first INTEGER NOT NULL, last INTEGER NOT NULL);
INSERT INTO covered VALUES (0, 1, 0);
PRAGMA user_version = 1;
COMMIT;
"""


class Place(NamedTuple):
    """Where a blob stands: the height, its place there, and the mark the layer knows it by."""

    height: int
    ordinal: int
    commitment: Commitment
    mark: bytes


class Covered(NamedTuple):
    """The heights that were read without a hole. None were when `last` is below `first`."""

    first: int
    last: int

    def holds(self, first: int, last: int) -> bool:
        """Whether all of these heights were read."""
        return first > last or (self.first <= first and last <= self.last)


class Archive:
    """Blobs and their places, in one directory. Only the thread this object owns touches it."""

    def __init__(self, directory: Path, *, layer: str) -> None:
        """Open or create it. Raises `LayerFailed` when the disk does not let it."""
        self._directory = directory
        self._blobs = directory / "blobs"
        self._layer = layer
        self._synced: set[Path] = set()
        """Folders in which everything is on the disk that this life found there or put there."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        try:
            self._index = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def keep(self, blobs: Iterable[tuple[Commitment, bytes]]) -> None:
        """Keep blobs; they are on the disk when this returns. Those that are there are left alone."""
        await self._run(lambda: self._keep(list(blobs)))

    async def read(self, commitment: Commitment) -> bytes:
        """A blob, verified. Raises `BlobMissing`, `BlobDamaged`."""
        return await self._run(lambda: self._read(commitment))

    async def note(self, places: Sequence[Place]) -> None:
        """Remember where blobs stand. What was sent and now has a place is no longer only sent."""
        await self._run(lambda: self._note(places))

    async def forget(self, place: Place) -> None:
        """A blob does not stand where it was seen: its network was begun anew. The blob itself is kept."""
        await self._run(
            lambda: self._change("DELETE FROM places WHERE height = ? AND mark = ?", [(place.height, place.mark)])
        )

    async def place_of(self, commitment: Commitment) -> Place | None:
        """Where a blob stands first, if anywhere."""
        rows = await self._run(
            lambda: self._ask(
                "SELECT height, ordinal, commitment, mark FROM places WHERE commitment = ? ORDER BY height LIMIT 1",
                (commitment,),
            )
        )
        return _place(rows[0]) if rows else None

    async def places(self, height: int, ordinal: int, below: int, count_max: int) -> list[Place]:
        """What stands from a place on and below a height, in order."""
        rows = await self._run(
            lambda: self._ask(
                "SELECT height, ordinal, commitment, mark FROM places "
                "WHERE (height, ordinal) >= (?, ?) AND height < ? ORDER BY height, ordinal, mark LIMIT ?",
                (height, ordinal, below, count_max),
            )
        )
        return [_place(row) for row in rows]

    async def sent(self, marks: Sequence[bytes]) -> Mapping[bytes, int]:
        """Which of these were sent and never seen to arrive, and how high the layer stood before."""
        asked = ",".join("?" * len(marks))
        rows = await self._run(
            lambda: self._ask(f"SELECT mark, height FROM sent WHERE mark IN ({asked})", tuple(marks))  # noqa: S608 — question marks.
        )
        return {bytes(mark): int(height) for mark, height in rows}

    async def note_sent(self, marks: Sequence[bytes], height: int) -> None:
        """Remember that these are about to be sent. One that was sent before keeps its earlier height."""
        await self._run(
            lambda: self._change("INSERT OR IGNORE INTO sent VALUES (?, ?)", [(mark, height) for mark in marks])
        )

    async def forget_sent(self, marks: Sequence[bytes]) -> None:
        """What was sent certainly did not arrive."""
        await self._run(lambda: self._change("DELETE FROM sent WHERE mark = ?", [(mark,) for mark in marks]))

    async def covered(self) -> Covered:
        """The heights that were read without a hole."""
        ((first, last),) = await self._run(lambda: self._ask("SELECT first, last FROM covered", ()))
        return Covered(int(first), int(last))

    async def cover(self, first: int, last: int) -> None:
        """These heights were read. They join what was read before, or replace it where there is a hole between."""
        known = await self.covered()
        joins = known.last >= known.first and first <= known.last + 1 and last >= known.first - 1
        begin, end = (min(first, known.first), max(last, known.last)) if joins else (first, last)
        if (begin, end) != known:
            await self._run(lambda: self._change("UPDATE covered SET first = ?, last = ?", [(begin, end)]))

    async def close(self) -> None:
        """Finish what is under way and close the index."""
        await self._run(self._index.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> sqlite3.Connection:
        path = self._directory / INDEX_NAME
        try:
            self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One thread works with it at a time; which one it is may differ between the opening and all that follows.
            index = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            index.execute("PRAGMA journal_mode=WAL")
            index.execute("PRAGMA synchronous=FULL")
            (version,) = index.execute("PRAGMA user_version").fetchone()
            if version == 0:
                index.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise LayerFailed(f"cannot open {path}: {error}", layer=self._layer, path=str(path)) from error
        if version not in (0, SCHEMA_VERSION):
            index.close()
            raise LayerFailed(
                f"{path} has layout {version}; this version of Weft reads layout {SCHEMA_VERSION}",
                layer=self._layer,
                path=str(path),
            )
        return index

    def _keep(self, blobs: Sequence[tuple[Commitment, bytes]]) -> None:
        folders: set[Path] = set()
        try:
            for commitment, blob in blobs:
                path = self._path(commitment)
                if path.exists() and commit_to(path.read_bytes()) == commitment:
                    # Its bytes were synced before it had this name, and the name perhaps never was.
                    folders |= {self._blobs, path.parent} - self._synced
                    continue
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    folders.add(self._blobs)
                draft = path.with_suffix(f".{os.getpid()}.new")
                with draft.open("wb") as file:
                    file.write(blob)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
                folders.add(path.parent)
            for folder in folders:
                _sync_folder(folder)
            self._synced |= folders
        except OSError as error:
            self._synced.clear()
            raise LayerFailed(
                f"cannot keep a blob in {self._directory}: {error.strerror}",
                layer=self._layer,
                path=str(self._directory),
            ) from error

    def _read(self, commitment: Commitment) -> bytes:
        path = self._path(commitment)
        try:
            blob = path.read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(
                f"the archive has no blob {commitment}", layer=self._layer, commitment=commitment
            ) from error
        except OSError as error:
            raise BlobDamaged(
                f"{path} cannot be read: {error.strerror}", layer=self._layer, commitment=commitment
            ) from error
        if commit_to(blob) != commitment:
            raise BlobDamaged(f"{path} is not what was kept", layer=self._layer, commitment=commitment)
        return blob

    def _note(self, places: Sequence[Place]) -> None:
        rows = [(place.height, place.ordinal, place.mark, place.commitment) for place in places]
        try:
            self._index.execute("BEGIN IMMEDIATE")
            self._index.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?)", rows)
            self._index.executemany("DELETE FROM sent WHERE mark = ?", [(place.mark,) for place in places])
            self._index.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _change(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            self._index.execute("BEGIN IMMEDIATE")
            self._index.executemany(statement, rows)
            self._index.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _ask(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._index.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> LayerFailed:
        if self._index.in_transaction:
            self._index.execute("ROLLBACK")
        path = str(self._directory / INDEX_NAME)
        return LayerFailed(f"the archive's index {path} failed: {error}", layer=self._layer, path=path)

    def _path(self, commitment: Commitment) -> Path:
        return self._blobs / commitment[:2] / commitment


def _place(row: tuple[Any, ...]) -> Place:
    height, ordinal, commitment, mark = row
    return Place(height, ordinal, Commitment(str(commitment)), mark)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
