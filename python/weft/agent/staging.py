"""Staging: a few slots of memory, one chunk each, through which objects come and go.

A slot is an extent of its own region that no layout names, so the engine moves bytes in and out of it like anywhere
else. Each use takes the next generation of that region: whoever had the slot before is shut out by the same rule that
shuts out an old attachment. Slots are backed when they are first needed and kept, so that a node through which no
object ever came has none.
"""

from collections.abc import Callable
from typing import Final, Protocol

from typing_extensions import Buffer

from weft.model.errors import Busy
from weft.model.policy import CHUNK_BYTES, STAGING_SLOTS_MAX, transfer_ms_max

GRANT_SPARE_MS: Final = 60_000
"""How much longer a grant is good than its transfer may take, so that waiting for the disk does not end it."""


class SlotMemory(Protocol):
    """What slots are made of: a lender's memory, from this side."""

    def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        """Back an extent."""
        ...

    def raise_generation(self, region_id: str, generation: int, timeout_ms: int = ...) -> None:
        """Refuse older grants from now on."""
        ...

    def grant(self, region_id: str, generation: int, holder: str, *, write: bool, expires_at_ms: int) -> bytes:
        """The right to reach it."""
        ...

    def read_extent(self, region_id: str, index: int, offset: int, into: Buffer) -> int:
        """Copy out of it."""
        ...

    def write_extent(self, region_id: str, index: int, offset: int, data: Buffer) -> int:
        """Copy into it."""
        ...


class Slot:
    """One chunk's room, for one transfer at a time."""

    def __init__(self, memory: SlotMemory, region_id: str) -> None:
        self._memory = memory
        self._generation = 0
        self.region_id = region_id

    def open(self, holder: str, size_bytes: int, *, write: bool, now_ms: int) -> bytes:
        """Begin a use: everybody before is shut out, and this is the grant for whom it is now. Raises `NoMemory`."""
        if self._generation == 0:
            self._memory.reserve_extent(self.region_id, 0, CHUNK_BYTES, 1)
            self._generation = 1
        else:
            self._memory.raise_generation(self.region_id, self._generation + 1)
            self._generation += 1
        expires_at_ms = now_ms + transfer_ms_max(size_bytes) + GRANT_SPARE_MS
        return self._memory.grant(self.region_id, self._generation, holder, write=write, expires_at_ms=expires_at_ms)

    def load(self, chunk: memoryview) -> None:
        """Put a chunk into the slot."""
        if chunk:
            self._memory.write_extent(self.region_id, 0, 0, chunk)

    def unload(self, into: memoryview) -> None:
        """Take a chunk out of the slot."""
        if into:
            self._memory.read_extent(self.region_id, 0, 0, into)


class Staging:
    """The slots of a node. Not to be shared between threads without a lock."""

    def __init__(self, memory: SlotMemory, mint: Callable[[], int], slots_max: int = STAGING_SLOTS_MAX) -> None:
        self._memory = memory
        self._mint = mint
        self._free: list[Slot] = []
        self._left = slots_max

    @property
    def has_room(self) -> bool:
        """Whether a slot is free, or one more may be made."""
        return bool(self._free) or self._left > 0

    def take(self) -> Slot:
        """A slot. Raises `Busy` when there is none."""
        if self._free:
            return self._free.pop()
        if self._left == 0:
            raise Busy("every staging slot of this node is taken; try again")
        self._left -= 1
        return Slot(self._memory, f"r{self._mint():016x}")

    def give_back(self, slot: Slot) -> None:
        """Let the next have it."""
        self._free.append(slot)
