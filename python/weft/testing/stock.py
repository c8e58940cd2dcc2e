"""The double of a machine's store of objects: names and sizes on a shelf that outlives the processes before it.

A copy on the shelf may have gone bad without anybody knowing. Whoever reads it to its end finds out, as a hash does:
the bad copy is thrown away and said to be corrupt.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from weft.agent.errands import Finding, WantedCopy
from weft.agent.stock import Pace, no_pace
from weft.model.errors import ObjectCorrupt, ObjectNotFound, StoreFull, Unreachable
from weft.model.ids import NodeId
from weft.model.object import ObjectHash

_BYTES_PER_S: Final = 1e9


class Shelf:
    """A machine's disk. `bad` are the copies whose bytes are no longer what their name says."""

    def __init__(self, room_bytes: int) -> None:
        self.sizes: dict[ObjectHash, int] = {}
        self.bad: set[ObjectHash] = set()
        self.room_bytes = room_bytes

    @property
    def used_bytes(self) -> int:
        """What is on it."""
        return sum(self.sizes.values())

    @property
    def free_bytes(self) -> int:
        """What else it takes."""
        return max(0, self.room_bytes - self.used_bytes)

    def is_good(self, object_hash: ObjectHash) -> bool:
        """Whether there is a copy, and it is what it should be."""
        return object_hash in self.sizes and object_hash not in self.bad

    def put(self, object_hash: ObjectHash, size_bytes: int) -> None:
        """Keep a copy. Raises `StoreFull`."""
        if object_hash not in self.sizes and size_bytes > self.free_bytes:
            raise StoreFull("the disk is full", free_bytes=self.free_bytes)
        self.sizes[object_hash] = size_bytes
        self.bad.discard(object_hash)

    def take(self, object_hash: ObjectHash) -> None:
        """Let go of a copy."""
        self.sizes.pop(object_hash, None)
        self.bad.discard(object_hash)


class StockDouble:
    """One life's access to a shelf: the agent's `Stock`. `find` gives a peer's, or None when it is not reached."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        chance: random.Random,
        find: Callable[[str, int], "StockDouble | None"],
        dropped: Callable[[ObjectHash], None] = lambda _object_hash: None,
    ) -> None:
        self.shelf = shelf
        self.closed = False
        self._random = chance
        self._find = find
        self._dropped = dropped
        self._found: Callable[[Finding], None] | None = None

    @property
    def used_bytes(self) -> int:
        """What the objects take."""
        return self.shelf.used_bytes

    @property
    def free_bytes(self) -> int:
        """How much larger an object could be that comes now."""
        return self.shelf.free_bytes

    def hashes(self) -> list[ObjectHash]:
        """Every object that is here."""
        return list(self.shelf.sizes)

    def size_of(self, object_hash: ObjectHash) -> int | None:
        """How long an object is, None when it is not here."""
        return self.shelf.sizes.get(object_hash)

    def listen(self, found: Callable[[Finding], None]) -> None:
        """Say from now on what peers brought, and what was found wrong while serving it."""
        self._found = found

    async def receive(self, object_hash: ObjectHash, size_bytes: int) -> None:
        """A peer brings an object."""
        await self._move(size_bytes)
        self._check_open()
        self.shelf.put(object_hash, size_bytes)
        self._tell(Finding(object_hash=object_hash, state="held"))

    async def fetch(self, copy: WantedCopy, source: NodeId, host: str, port: int) -> None:
        """Bring an object here from another node, verified."""
        if copy.object_hash in self.shelf.sizes:
            if self.shelf.is_good(copy.object_hash):
                return
            self.shelf.take(copy.object_hash)
        await self._move(copy.size_bytes)
        peer = self._find(host, port)
        if peer is None:
            raise Unreachable(f"{source} does not answer at {host}:{port}")
        peer.give(copy.object_hash)
        self._check_open()
        self.shelf.put(copy.object_hash, copy.size_bytes)

    def give(self, object_hash: ObjectHash) -> None:
        """A peer asks for an object. Raises when there is none that is good, having thrown away what is bad."""
        self._check_open()
        if object_hash not in self.shelf.sizes:
            raise ObjectNotFound(f"no copy of {object_hash} is kept here", hash=object_hash)
        if object_hash in self.shelf.bad:
            self.shelf.take(object_hash)
            self._tell(Finding(object_hash=object_hash, state="corrupt", error="found when it was asked for"))
            raise ObjectCorrupt(f"the copy of {object_hash} is not the object", hash=object_hash)

    async def check(self, object_hash: ObjectHash, pace: Pace = no_pace) -> None:
        """Read an object to its end."""
        size_bytes = self.shelf.sizes.get(object_hash)
        if size_bytes is None:
            raise ObjectNotFound(f"no copy of {object_hash} is kept here", hash=object_hash)
        await pace(size_bytes)
        await self._move(size_bytes)
        self._check_open()
        if object_hash in self.shelf.bad:
            self.shelf.take(object_hash)
            raise ObjectCorrupt(f"the copy of {object_hash} is not the object", hash=object_hash)

    async def drop(self, object_hash: ObjectHash) -> None:
        """Let go of an object."""
        await self._move(0)
        self._check_open()
        self.shelf.take(object_hash)
        self._dropped(object_hash)

    async def close(self) -> None:
        """Serve no more."""
        self.closed = True

    async def _move(self, size_bytes: int) -> None:
        await asyncio.sleep(size_bytes / _BYTES_PER_S + self._random.uniform(0.0005, 0.005))

    def _tell(self, finding: Finding) -> None:
        if self._found is not None:
            self._found(finding)

    def _check_open(self) -> None:
        if self.closed:
            raise Unreachable("the process has ended")
