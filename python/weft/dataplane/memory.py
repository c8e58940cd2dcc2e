"""A region's bytes in this process: an ordinary range of memory whose pages come from other machines when touched.

    memory.buffer[:5] = b"hello"                  # touched: a lost page ends the process with SIGBUS and one line why
    memory.read(0, 5)                             # asked: a lost page is an exception, PageUnavailable
    table = memory.numpy("f4", shape=(1024, 1024))

Faults are served by native threads that never take the GIL, so touching is safe from any Python code. What is written
through an exclusive mapping goes home on `flush`; what was not flushed dies with the process.
"""

import functools
import math
import os
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from weft._native import Window
from weft.dataplane.stats import FaultStats
from weft.model.errors import BadArgument, Closed, StillExported

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Buffer


class RegionMemory:
    """One mapped window of a region.

    Made by `RegionMemory.map`; usable until `close`, which refuses while a buffer or an array of it is alive. A child
    made by fork does not inherit the window: every method there says so.
    """

    def __init__(self, window: Window, *, region: str, mode: str) -> None:
        self._window: Window | None = window
        self._region = region
        self._mode = mode
        self._size_bytes = window.size_bytes
        self._process_id = os.getpid()

    @classmethod
    def map(
        cls,
        *,
        region: str,
        size_bytes: int,
        mode: str,
        bands: Sequence[tuple[int, int, Sequence[tuple[int, str, int]]]],
        peers: Sequence[tuple[str, str, int]],
        grant: bytes,
        cluster_id: bytes,
        secret: bytes,
        holder: str,
        incarnation: int,
        congestion: str | None = None,
        fault_timeout_ms: int | None = None,
        near: bool = True,
    ) -> Self:
        """Maps the region described by `bands`, reached through `peers`, by the right `grant` proves.

        `bands` are (first_stripe, stripes, [(extent index, node id, incarnation)…]); `peers` are (node id, host, port).
        `near` reads lenders of this machine by mapping what they lend, where they hand it over.

        Nothing is fetched yet and no peer is dialled before the first fault that needs it. Raises what the native core
        raises, NoPrivilege first among them: this process may not use userfaultfd.
        """
        timeouts = {} if fault_timeout_ms is None else {"fault_timeout_ms": fault_timeout_ms}
        window = Window.attach_region(
            region=region,
            size_bytes=size_bytes,
            mode=mode,
            bands=bands,
            peers=peers,
            grant=grant,
            cluster_id=cluster_id,
            secret=secret,
            name=holder,
            incarnation=incarnation,
            congestion=congestion,
            near=near,
            **timeouts,
        )
        if window.user_mode_only:
            _say_what_needs_privilege()
        return cls(window, region=region, mode=mode)

    @property
    def region(self) -> str:
        """The region's name."""
        return self._region

    @property
    def mode(self) -> str:
        """`read`, `exclusive` or `private`."""
        return self._mode

    @property
    def size_bytes(self) -> int:
        """How many bytes are mapped."""
        return self._size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    @property
    def writable(self) -> bool:
        """Whether the mapping may be written to."""
        return self._mode != "read"

    @property
    def user_mode_only(self) -> bool:
        """Whether only this program's own code may touch absent pages.

        Without privilege the kernel hands over faults of user code alone: a `read(2)` straight into an absent page
        then fails with EFAULT. `prefetch` the range first, or read into a buffer and copy; `weft doctor` says what is
        missing.
        """
        return self._alive().user_mode_only

    @property
    def closed(self) -> bool:
        """Whether the window is gone."""
        return self._window is None

    @property
    def here(self) -> bool:
        """Whether this is the process that mapped the window, and not a child made by fork."""
        return os.getpid() == self._process_id

    @property
    def exports(self) -> int:
        """How many buffers and arrays of this memory are alive."""
        return 0 if self._window is None else self._window.exports

    @property
    def buffer(self) -> memoryview:
        """The bytes as a memoryview, without a copy. While it lives the memory cannot be closed."""
        return memoryview(self._alive())

    def __buffer__(self, flags: int, /) -> memoryview:
        # Python 3.12 and later ask here for `memoryview(memory)`; on 3.11 `buffer` is the way (PEP 688).
        return self._alive().__buffer__(flags)

    def numpy(
        self, dtype: "DTypeLike" = "u1", shape: int | tuple[int, ...] | None = None, offset: int = 0
    ) -> "NDArray[Any]":
        """The bytes from `offset` on as an array, without a copy; pages come as elements are touched.

        Without a shape the array is flat and takes every whole element there is room for. While an array lives the
        memory cannot be closed. Raises BadArgument when the array would not fit.
        """
        import numpy

        buffer = self.buffer
        element = numpy.dtype(dtype)
        if not 0 <= offset <= self._size_bytes:
            raise BadArgument(f"offset {offset} is outside the {self._size_bytes} bytes of region {self._region!r}")
        if shape is None:
            shape = (self._size_bytes - offset) // max(1, element.itemsize)
        wanted = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(wanted)
        wanted_bytes = count * element.itemsize
        if min(wanted, default=0) < 0 or wanted_bytes > self._size_bytes - offset:
            raise BadArgument(
                f"an array of {wanted} {element} takes {wanted_bytes} bytes, and region {self._region!r} has "
                f"{self._size_bytes - offset} from offset {offset} on"
            )
        # frombuffer keeps the export for as long as the array lives; ndarray(buffer=…) would let go of it at once, and
        # the window could be closed under the array.
        return numpy.frombuffer(buffer, dtype=element, count=count, offset=offset).reshape(wanted)

    def read(self, offset: int, size_bytes: int, *, timeout_ms: int | None = None) -> bytes:
        """The bytes of a range, fetched where they are not here yet. Raises PageUnavailable, never a signal."""
        data = bytearray(self._checked(offset, size_bytes))
        self._alive().read(offset, data, timeout_ms)
        return bytes(data)

    def read_into(self, offset: int, buffer: "Buffer", *, timeout_ms: int | None = None) -> int:
        """Reads a range into a buffer of the caller's, as long as the buffer is; returns how many bytes."""
        return self._alive().read(offset, buffer, timeout_ms)

    def write(self, offset: int, data: "Buffer", *, timeout_ms: int | None = None) -> int:
        """Puts bytes into the mapping; returns how many. They go home with the next `flush`.

        Raises ReadOnly on a read mapping, and PageUnavailable when a page that is partly overwritten cannot be fetched.
        """
        return self._alive().write(offset, data, timeout_ms)

    def prefetch(self, offset: int = 0, size_bytes: int | None = None, *, timeout_ms: int | None = None) -> int:
        """Brings a range here now, in large pieces; returns how many bytes were fetched. Raises PageUnavailable."""
        wanted_bytes = self._size_bytes - offset if size_bytes is None else size_bytes
        return self._alive().prefetch(offset, self._checked(offset, wanted_bytes), timeout_ms)

    def flush(self, *, timeout_ms: int | None = None) -> int:
        """Sends every dirty page home and returns how many bytes went; after it they survive this process.

        Raises what the home that did not take its pages answered, such as Unreachable, StaleGeneration or ExtentLost;
        those pages stay dirty and a later flush tries again.
        """
        return self._alive().flush(timeout_ms)

    def stats(self) -> FaultStats:
        """What faults cost so far."""
        return FaultStats.from_native(self._alive().stats())

    def renew_grant(self, grant: bytes) -> None:
        """Hands a fresh grant to the fault threads."""
        self._alive().renew_grant(grant)

    def set_peer(self, node_id: str, host: str, port: int) -> None:
        """Says where a lender is reached from now on; a connection to its old address is given up."""
        self._alive().set_peer(node_id, host, port)

    def close(self) -> None:
        """Unmaps the window. Dirty pages that were not flushed are lost.

        Raises StillExported, a BufferError, while a buffer or an array of it is alive: the window stays as it was.
        """
        if self._window is None:
            return
        window = self._alive()
        if window.exports:
            raise StillExported(
                f"region {self._region!r} still has {window.exports} live buffers or arrays; delete them, then close"
            )
        window.close()
        self._window = None

    def __enter__(self) -> Self:
        self._alive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._window is None else f"{self._size_bytes} bytes"
        return f"<RegionMemory of {self._region!r}, {self._mode}, {state}>"

    def _alive(self) -> Window:
        if os.getpid() != self._process_id:
            raise Closed(
                f"the mapping of region {self._region!r} belongs to process {self._process_id} and does not pass "
                "through fork; attach the region again in this process"
            )
        if self._window is None:
            raise Closed(f"the mapping of region {self._region!r} is closed")
        return self._window

    def _checked(self, offset: int, size_bytes: int) -> int:
        """The size, when the range lies inside; a bytearray of a wrong size must not be made before the check."""
        if offset < 0 or size_bytes < 0 or offset + size_bytes > self._size_bytes:
            raise BadArgument(
                f"bytes {offset} to {offset + size_bytes} are outside the {self._size_bytes} bytes "
                f"of region {self._region!r}"
            )
        return size_bytes


@functools.cache
def _say_what_needs_privilege() -> None:
    """Once a process: programs run on, and the one thing that differs would otherwise be found as an EFAULT."""
    warnings.warn(
        "this process may serve only its own touches of absent pages: a system call such as read(2) straight into one "
        "fails with EFAULT. Call prefetch() on such ranges first, or allow the full mode: as root, `sysctl -w "
        "vm.unprivileged_userfaultfd=1`, or give this user /dev/userfaultfd (`weft doctor` shows what is allowed)",
        RuntimeWarning,
        stacklevel=5,
    )
