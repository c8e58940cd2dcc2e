"""Slots: buffers of a node's endpoint through which objects come and go, each lent to one peer at a time.

A slot is a buffer like any that is advertised, so its bytes go whatever way the two endpoints find best, memory mapped
between neighbours included. Each use has an advert of its own; the last one's is taken back before the next is made,
and nobody is inside any more then.
"""

from typing_extensions import Buffer

from weft.dataplane.endpoint import Advert, Endpoint, Registration


class Slots:
    """The slots of one endpoint, by the names their user gave them. One slot is for one thread at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._slots: dict[str, tuple[memoryview, Registration]] = {}
        self._lent: dict[str, Advert] = {}

    def back(self, slot: str, size_bytes: int) -> None:
        """Makes a slot. Raises NoMemory when the machine has none left."""
        memory = self._endpoint.allocate(size_bytes)
        self._slots[slot] = memory, self._endpoint.register(memory)

    def lend(self, slot: str, *, write: bool, lasts_ms: int) -> bytes:
        """Shuts out whoever had the slot, and gives the right to reach it to the next, as an advert travels.

        Raises Busy while somebody is still inside.
        """
        _, registration = self._slots[slot]
        if slot in self._lent:
            registration.withdraw(self._lent[slot])
            del self._lent[slot]
        self._lent[slot] = registration.advertise(writable=write, lasts_ms=lasts_ms)
        return self._lent[slot].encode()

    def read(self, slot: str, into: Buffer) -> None:
        """Copies out of a slot, from its start."""
        view = memoryview(into)
        view[:] = self._slots[slot][0][: len(view)]

    def write(self, slot: str, data: Buffer) -> None:
        """Copies into a slot, from its start."""
        view = memoryview(data)
        self._slots[slot][0][: len(view)] = view
