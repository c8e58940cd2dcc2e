"""The objects a node keeps, as the node's shell needs them: a port, and the store, threads and engine behind it.

Everything that can wait is awaited. Hashing and disks run in a few threads of their own, so that no lender's fence ever
queues behind an object; a test's or a simulator's stock does without threads and without a disk.
"""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

from weft.agent.errands import Finding, WantedCopy
from weft.agent.serving import Serving, Ticket
from weft.agent.staging import Staging
from weft.agent.store import Store
from weft.agent.transfers import Transfers
from weft.dataplane import Lender, persistently
from weft.model.errors import ObjectCorrupt, ObjectNotFound, WeftError
from weft.model.ids import NodeId
from weft.model.object import ObjectHash, chunk_count
from weft.model.policy import COPIES_AT_ONCE_MAX

T = TypeVar("T")

Pace = Callable[[int], Awaitable[None]]
"""Awaited after each chunk with its size, by whoever wants a reader to take its time."""

# Copies, an object that is looked at again, and the scrubber.
_THREADS: Final = COPIES_AT_ONCE_MAX + 2


async def no_pace(size_bytes: int) -> None:
    """As fast as it goes."""


class Stock(Protocol):
    """What one life of a node does with objects."""

    @property
    def used_bytes(self) -> int:
        """What the objects take."""
        ...

    @property
    def free_bytes(self) -> int:
        """How much larger an object could be that comes now."""
        ...

    def hashes(self) -> list[ObjectHash]:
        """Every object that is here."""
        ...

    def size_of(self, object_hash: ObjectHash) -> int | None:
        """How long an object is, None when it is not here."""
        ...

    def listen(self, found: Callable[[Finding], None]) -> None:
        """Say from now on what peers brought, and what was found wrong while serving it. Called in the event loop."""
        ...

    async def fetch(self, copy: WantedCopy, source: NodeId, host: str, port: int) -> None:
        """Bring an object here from another node, verified. One that is here already is looked at instead."""
        ...

    async def check(self, object_hash: ObjectHash, pace: Pace = no_pace) -> None:
        """Read an object to its end. What is not what it should be is taken away, and `ObjectCorrupt` raised."""
        ...

    async def drop(self, object_hash: ObjectHash) -> None:
        """Let go of an object."""
        ...

    async def close(self) -> None:
        """Serve no more."""
        ...


class NativeStock:
    """A store on this machine's disk, served through the native engine. The store outlives this; the engine ends."""

    def __init__(self, store: Store, lender: Lender, *, mint: Callable[[], int], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._lender = lender
        self._mint = mint
        self._loop = asyncio.get_running_loop()
        self._found: Callable[[Finding], None] | None = None
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="weft errands")
        self._serving = Serving(
            lender,
            Transfers[Ticket](
                store,
                Staging(lender.slots(), mint),
                now_ms=now_ms,
                stored=self._stored,
                found_corrupt=self._found_corrupt,
            ),
        )

    @property
    def used_bytes(self) -> int:
        """What the objects take."""
        return self._store.used_bytes

    @property
    def free_bytes(self) -> int:
        """How much larger an object could be that comes now."""
        return self._store.free_bytes

    def hashes(self) -> list[ObjectHash]:
        """Every object that is here."""
        return self._store.hashes()

    def size_of(self, object_hash: ObjectHash) -> int | None:
        """How long an object is."""
        return self._store.size_of(object_hash)

    def listen(self, found: Callable[[Finding], None]) -> None:
        """Say from now on what peers brought, and what was found wrong while serving it."""
        self._found = found

    async def fetch(self, copy: WantedCopy, source: NodeId, host: str, port: int) -> None:
        """Bring an object here from another node."""
        await self._in_thread(lambda: self._fetch(copy, source, host, port))

    async def check(self, object_hash: ObjectHash, pace: Pace = no_pace) -> None:
        """Read an object to its end."""
        size_bytes = self._store.size_of(object_hash)
        if size_bytes is None:
            raise ObjectNotFound(f"no copy of {object_hash} is kept here", hash=object_hash)
        whole = hashlib.sha256()
        try:
            for index in range(chunk_count(size_bytes)):
                await pace(await self._in_thread(lambda: self._store.check_chunk(object_hash, index, whole)))  # noqa: B023 — awaited before the next.
            await self._in_thread(lambda: self._store.check_whole(object_hash, whole))
        except (ObjectCorrupt, ObjectNotFound):
            await self._in_thread(lambda: self._throw_away(object_hash))
            raise

    async def drop(self, object_hash: ObjectHash) -> None:
        """Let go of an object."""
        await self._in_thread(lambda: self._store.remove(object_hash))

    async def close(self) -> None:
        """Serve no more."""
        self._stopping.set()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._serving.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, copy: WantedCopy, source: NodeId, host: str, port: int) -> None:
        if self._store.size_of(copy.object_hash) is not None:
            # The plan does not know of it, so perhaps somebody had reason to say that it is not good.
            try:
                self._store.check(copy.object_hash)
            except (ObjectCorrupt, ObjectNotFound):
                self._throw_away(copy.object_hash)
            else:
                return
        errand = self._mint()
        persistently(lambda: self._fetch_anew(copy, source, host, port, errand))

    def _fetch_anew(self, copy: WantedCopy, source: NodeId, host: str, port: int, errand: int) -> None:
        with (
            self._store.begin(copy.object_hash, copy.size_bytes) as draft,
            self._lender.dial(source, host, port) as holder,
        ):
            holder.get(copy.object_hash, copy.size_bytes, draft, errand, self._stopping.is_set)
            draft.commit()

    def _throw_away(self, object_hash: ObjectHash) -> None:
        # A disk that keeps what it cannot read is not worth more words: the object is forgotten and healed either way.
        with contextlib.suppress(WeftError):
            self._store.remove(object_hash)

    def _stored(self, object_hash: ObjectHash) -> None:
        self._tell(Finding(object_hash=object_hash, state="held"))

    def _found_corrupt(self, object_hash: ObjectHash) -> None:
        self._throw_away(object_hash)
        self._tell(Finding(object_hash=object_hash, state="corrupt", error="found when it was asked for"))

    def _tell(self, finding: Finding) -> None:
        """From a serving thread to the loop, which may be on its way out."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, finding)

    def _hear(self, finding: Finding) -> None:
        if self._found is not None:
            self._found(finding)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._threads, work)
