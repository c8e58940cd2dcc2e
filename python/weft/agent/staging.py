"""Staging: a few slots of memory, one chunk each, through which objects come and go.

A slot is a buffer of the node's endpoint, so the engine moves bytes in and out of it like anywhere else. Each use has a
right of its own: whoever had the slot before is shut out before the next is let in. Slots are backed when they are
first needed and kept, so that a node through which no object ever came has none.
"""

from collections.abc import Callable
from typing import Final, Protocol

from typing_extensions import Buffer

from weft.model.errors import Busy
from weft.model.policy import CHUNK_BYTES, STAGING_SLOTS_MAX, transfer_ms_max

GRANT_SPARE_MS: Final = 60_000
"""How much longer a right is good than its transfer may take, so that waiting for the disk does not end it."""


class SlotMemory(Protocol):
    """What slots are made of: a lender's buffers, from this side."""

    def back(self, slot: str, size_bytes: int) -> None:
        """Make a slot."""
        ...

    def lend(self, slot: str, *, write: bool, lasts_ms: int) -> bytes:
        """Shut out whoever had it; the right to reach it."""
        ...

    def read(self, slot: str, into: Buffer) -> None:
        """Copy out of it."""
        ...

    def write(self, slot: str, data: Buffer) -> None:
        """Copy into it."""
        ...


class Slot:
    """One chunk's room, for one transfer at a time."""

    def __init__(self, memory: SlotMemory, name: str) -> None:
        self._memory = memory
        self._backed = False
        self.name = name

    def open(self, size_bytes: int, *, write: bool) -> bytes:
        """Begin a use: everybody before is shut out, and this is the right of whom it is now. Raises `NoMemory`."""
        if not self._backed:
            self._memory.back(self.name, CHUNK_BYTES)
            self._backed = True
        return self._memory.lend(self.name, write=write, lasts_ms=transfer_ms_max(size_bytes) + GRANT_SPARE_MS)

    def load(self, chunk: memoryview) -> None:
        """Put a chunk into the slot."""
        if chunk:
            self._memory.write(self.name, chunk)

    def unload(self, into: memoryview) -> None:
        """Take a chunk out of the slot."""
        if into:
            self._memory.read(self.name, into)


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
            # The one that waited longest: a slot somebody cannot be shut out of does not keep the others waiting.
            return self._free.pop(0)
        if self._left == 0:
            raise Busy("every staging slot of this node is taken; try again")
        self._left -= 1
        return Slot(self._memory, f"slot-{self._mint():016x}")

    def give_back(self, slot: Slot) -> None:
        """Let the next have it."""
        self._free.append(slot)
