"""An attachment: this process's right to a region and the memory it got by it.

While it is open a background thread renews its lease, hands each fresh grant to the fault threads, and tells them when
a lender has moved. Leaving the `with` block of an exclusive attachment flushes what was written, unmaps the memory and
gives the lease back; leaving it by an exception gives up what was not flushed.
"""

import logging
import os
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from weft.client.chores import Chores
from weft.dataplane import FaultStats, RegionMemory
from weft.model.errors import AttachmentNotFound, WeftError
from weft.model.policy import LEASE_RENEW_MS

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Buffer

_log = logging.getLogger(__name__)

# How often the lenders' addresses are read again; a lender that moves keeps its pages, so this bounds how long a fault
# may fail for looking at the old address.
_PEERS_REFRESH_S = 10.0
# A renewal that failed is tried again this soon; the lease outlasts many of them.
_RENEW_AGAIN_S = 15.0
# What giving the lease back may take when nobody waits for the answer.
_LET_GO_S = 2.0


class Lease(Protocol):
    """What an attachment needs of the coordinator, from the attachment's side."""

    def renew(self) -> bytes:
        """A fresh grant."""
        ...

    def peers(self) -> list[tuple[str, str, int]]:
        """Where the nodes are now: (node id, host, port)."""
        ...

    def release(self, patience_s: float | None = None) -> None:
        """Gives the lease back."""
        ...


class Attachment:
    """One mapping of a region, held under a lease. Made by `Region.attach`; it ends with `detach` or its `with` block.

    Touching (`buffer`, `numpy`) is an ordinary memory access: a page that cannot be had ends the process with SIGBUS,
    after a line that says why. Asking (`read`, `write`, `prefetch`) raises PageUnavailable instead.
    """

    def __init__(
        self,
        memory: RegionMemory,
        lease: Lease,
        *,
        attachment_id: str,
        generation: int,
        peers: list[tuple[str, str, int]],
    ) -> None:
        self._memory = memory
        self._attachment_id = attachment_id
        self._generation = generation
        self._chores = _start_chores(memory, lease, peers)
        # An attachment that is forgotten, or open when the program ends, gives its lease back; its process id keeps a
        # forked child from giving back what is its parent's.
        self._let_go = weakref.finalize(self, _let_go, lease, self._chores, os.getpid(), memory.region)

    @property
    def attachment_id(self) -> str:
        """The coordinator's name for this attachment."""
        return self._attachment_id

    @property
    def generation(self) -> int:
        """Its generation: lenders refuse it once they know a newer one that excludes it."""
        return self._generation

    @property
    def region(self) -> str:
        """The region's name."""
        return self._memory.region

    @property
    def mode(self) -> str:
        """`read`, `exclusive` or `private`."""
        return self._memory.mode

    @property
    def size_bytes(self) -> int:
        """How many bytes are mapped."""
        return self._memory.size_bytes

    def __len__(self) -> int:
        return self._memory.size_bytes

    @property
    def memory(self) -> RegionMemory:
        """The mapping itself."""
        return self._memory

    @property
    def buffer(self) -> memoryview:
        """The bytes as a memoryview, without a copy. While it lives the attachment cannot be detached."""
        return self._memory.buffer

    def __buffer__(self, flags: int, /) -> memoryview:
        return self._memory.__buffer__(flags)

    def numpy(
        self, dtype: "DTypeLike" = "u1", shape: int | tuple[int, ...] | None = None, offset: int = 0
    ) -> "NDArray[Any]":
        """The bytes from `offset` on as an array, without a copy; pages come as elements are touched."""
        return self._memory.numpy(dtype, shape, offset)

    def read(self, offset: int, size_bytes: int, *, timeout_ms: int | None = None) -> bytes:
        """The bytes of a range. Raises PageUnavailable, never a signal."""
        return self._memory.read(offset, size_bytes, timeout_ms=timeout_ms)

    def read_into(self, offset: int, buffer: "Buffer", *, timeout_ms: int | None = None) -> int:
        """Reads a range into a buffer of the caller's; returns how many bytes."""
        return self._memory.read_into(offset, buffer, timeout_ms=timeout_ms)

    def write(self, offset: int, data: "Buffer", *, timeout_ms: int | None = None) -> int:
        """Puts bytes into the mapping; returns how many. They go home with the next `flush`."""
        return self._memory.write(offset, data, timeout_ms=timeout_ms)

    def prefetch(self, offset: int = 0, size_bytes: int | None = None, *, timeout_ms: int | None = None) -> int:
        """Brings a range here now; returns how many bytes were fetched. Raises PageUnavailable."""
        return self._memory.prefetch(offset, size_bytes, timeout_ms=timeout_ms)

    def flush(self, *, timeout_ms: int | None = None) -> int:
        """Sends every dirty page home and returns how many bytes went; after it they survive this process."""
        return self._memory.flush(timeout_ms=timeout_ms)

    def stats(self) -> FaultStats:
        """What faults cost so far."""
        return self._memory.stats()

    @property
    def detached(self) -> bool:
        """Whether the attachment has ended."""
        return not self._let_go.alive

    def detach(self, *, flush: bool = True) -> None:
        """Flushes an exclusive attachment, unmaps the memory and gives the lease back. Detaching twice is harmless.

        With `flush=False` what was not flushed is given up. Raises StillExported while arrays or buffers of the memory
        live, and what `flush` raises when a home does not take its pages: in both cases the attachment is still open,
        as it was. An error of the coordinator's comes last, when the bytes are safe and the memory is unmapped; the
        lease then lapses by itself.
        """
        if self.detached:
            return
        if flush and self.mode == "exclusive":
            self._memory.flush()
        self._memory.close()
        self._give_back(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.detached or not self._memory.here:
            return
        if kind is None and self.mode == "exclusive":
            try:
                self._memory.flush()
            except WeftError as unflushed:
                unflushed.add_note(
                    f"region {self.region!r} is still attached and its dirty pages are still here: flush again, or "
                    "give them up with detach(flush=False)"
                )
                raise
        if self._memory.exports:
            # Unmapping memory an array looks into would crash the program; the mapping goes with the last of them.
            warnings.warn(
                f"{self._memory.exports} arrays or buffers outlive the attachment of region {self.region!r}; "
                "what is written through them goes nowhere",
                ResourceWarning,
                stacklevel=2,
            )
        else:
            self._memory.close()
        try:
            self._give_back(_LET_GO_S if kind is not None else None)
        except WeftError as silent:
            _log.warning("region %r is flushed and unmapped, but its lease lapses by itself: %s", self.region, silent)

    def __repr__(self) -> str:
        state = "detached" if self.detached else f"generation {self._generation}"
        return f"<Attachment of {self.region!r}, {self.mode}, {state}>"

    def _give_back(self, patience_s: float | None) -> None:
        parts = self._let_go.detach()
        if parts is None:
            return
        lease, chores = parts[2][0], parts[2][1]
        chores.stop()
        lease.release(patience_s)


def _start_chores(memory: RegionMemory, lease: Lease, peers: list[tuple[str, str, int]]) -> Chores:
    """The thread that keeps an attachment good. It holds the memory weakly: a forgotten one is not kept alive."""
    reached = weakref.ref(memory)
    known = {node_id: (host, port) for node_id, host, port in peers}

    def renew() -> float | None:
        live = reached()
        if live is None or live.closed:
            return None
        try:
            live.renew_grant(lease.renew())
        except AttachmentNotFound as ended:
            _log.warning("the attachment of region %r was ended by the coordinator: %s", live.region, ended)
            return None
        except WeftError as failure:
            _log.info("the lease of region %r could not be renewed yet: %s", live.region, failure)
            return _RENEW_AGAIN_S
        return LEASE_RENEW_MS / 1000

    def refresh_peers() -> float | None:
        live = reached()
        if live is None or live.closed:
            return None
        try:
            for node_id, host, port in lease.peers():
                if known.get(node_id) != (host, port):
                    live.set_peer(node_id, host, port)
                    known[node_id] = (host, port)
        except WeftError as failure:
            _log.info("the lenders of region %r could not be looked up: %s", live.region, failure)
        return _PEERS_REFRESH_S

    chores = Chores(
        f"weft lease of {memory.region}",
        [_first_after(LEASE_RENEW_MS / 1000, renew), _first_after(_PEERS_REFRESH_S, refresh_peers)],
    )
    chores.start()
    return chores


def _first_after(delay_s: float, chore: Callable[[], float | None]) -> Callable[[], float | None]:
    """The chore, due for the first time only after a while."""
    begun = False

    def later() -> float | None:
        nonlocal begun
        if not begun:
            begun = True
            return delay_s
        return chore()

    return later


def _let_go(lease: Lease, chores: Chores, process_id: int, region: str) -> None:
    """Gives back the lease of an attachment nobody detached."""
    if os.getpid() != process_id:
        return
    chores.stop()
    try:
        lease.release(_LET_GO_S)
    except WeftError as silent:
        _log.info("the lease of region %r lapses by itself: %s", region, silent)
