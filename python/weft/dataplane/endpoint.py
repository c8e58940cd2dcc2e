"""`Endpoint`: one process's end of transfers, its registered memory, and the peers it knows.

    with Endpoint.listen(secret=secret) as endpoint, endpoint.register(buffer) as memory:
        advert = memory.advertise()

docs/transfers.md says what all of it promises. Methods that end in `_now` wait and are the shortest way; the others
return a `Transfer` at once. Times are milliseconds; None is a transfer's own deadline.
"""

import hashlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import astuple

from weft import _native
from weft._native import Advert
from weft.dataplane.buffers import memory_of
from weft.dataplane.choice import Meeting
from weft.dataplane.metadata import Metadata
from weft.dataplane.rdma import RdmaRecord
from weft.dataplane.transfer import Transfer
from weft.model.errors import BadArgument
from weft.model.policy import ADVERT_MS, CONNECT_MS_MAX, DRAIN_MS_MAX, SPIN_US_MAX

_log = logging.getLogger(__name__)

__all__ = [
    "TRANSPORTS",
    "Advert",
    "Endpoint",
    "EndpointStatus",
    "Item",
    "Notification",
    "Peer",
    "PeerStatus",
    "Registration",
]

TRANSPORTS: Final = ("ipc", "rdma", "tcp", "tcpx")
"""Best first: `ipc` and `rdma` where they work, else TCP. `tcpx`, TCP through a bounce buffer, only when asked for."""

Item = tuple[Advert, int, Any]
"""A part of a vector: an advert, an offset in it, and the buffer beside it."""


class Notification(Struct, frozen=True, kw_only=True):
    """What a peer wanted to be known."""

    sender: str
    name: bytes
    content: bytes


class PeerStatus(Struct, frozen=True, kw_only=True):
    """A peer, and the transport its last lane for data came up on.

    `wanted` is the transport it should be; where the two differ, `trouble` says what stands in the way. `moved_bytes`
    are counted by what carried them: an `rdma` lane sends a first request over the connection beside it.
    """

    name: str
    host: str
    port: int
    transport: str
    wanted: str
    trouble: str | None
    moved_bytes: dict[str, int]


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """What an endpoint is doing. A backing is what transports keep for a range; registrations inside it share it."""

    peers: tuple[PeerStatus, ...]
    registrations: int
    backings: int
    backings_made: int
    backings_shared: int
    adverts: int
    transfers: int


class Registration:
    """Memory of this process that may be advertised. A context manager that releases it."""

    def __init__(self, endpoint: _native.Endpoint, number: int, size_bytes: int) -> None:
        self._endpoint = endpoint
        self._released = False
        self.number = number
        self.size_bytes = size_bytes

    def advertise(
        self, offset: int = 0, size_bytes: int | None = None, *, writable: bool = True, lasts_ms: int = ADVERT_MS
    ) -> Advert:
        """A right to reach a part of it, all of it if nothing is said. Raises `OutOfRange`."""
        size = self.size_bytes - offset if size_bytes is None else size_bytes
        if offset < 0 or size <= 0:
            raise BadArgument(f"a part of {size} bytes at {offset} is none; offset and size_bytes are not negative")
        return self._endpoint.advertise(self.number, offset, size, writable, lasts_ms)

    def withdraw(self, advert: Advert) -> None:
        """Takes one right back: nobody uses it any more when this returns."""
        self._endpoint.withdraw(advert.buffer)

    def release(self) -> None:
        """Takes every right back and lets go of the memory. Twice is once. Raises `Busy` while a peer is inside."""
        if not self._released:
            self._endpoint.release(self.number)
            self._released = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Peer:
    """The way to another endpoint. For any thread; a context manager that gives it up."""

    def __init__(self, native: _native.Peer) -> None:
        self._native = native
        self.read_raw: Final = native.read_now
        """`read_now` for buffers alone, by position: advert, offset, into, timeout_ms."""

    @property
    def name(self) -> str:
        """What it calls itself, as it proved."""
        return self._native.name

    @property
    def incarnation(self) -> int:
        """Which life of it this is."""
        return self._native.incarnation

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._native.host, self._native.port

    @property
    def transport(self) -> str:
        """The transport its last lane for data came up on."""
        return self._native.transport

    @property
    def wanted(self) -> str:
        """The transport it is meant to be; TCP is used wherever that one does not work."""
        return self._native.wanted

    @property
    def trouble(self) -> str | None:
        """Why the last lane of a faster transport did not come up, or broke; None while it works."""
        return self._native.trouble

    @property
    def moved_bytes(self) -> dict[str, int]:
        """How much moved, by transport."""
        return self._native.moved_bytes

    @property
    def meeting(self) -> Meeting:
        """What the two processes found out about each other."""
        same_machine, same_user, answers_here, answers_there = self._native.facts()
        return Meeting(
            same_machine=same_machine, same_user=same_user, answers_here=answers_here, answers_there=answers_there
        )

    @property
    def is_closed(self) -> bool:
        """Whether it was given up."""
        return self._native.is_closed

    def take_way(self, transport: str, *, expected: RdmaRecord | None = None, timeout_ms: int = CONNECT_MS_MAX) -> None:
        """Has what is begun from now on go by this transport. What is under way ends where it is, and none of it fails.

        Raises why not, and everything stays as it was. `expected` is the record whose device it has to be.
        """
        record = None if expected is None else astuple(expected)
        self._native.take_way(transport, timeout_ms, expected=record)

    def retry_way(self, timeout_ms: int = CONNECT_MS_MAX) -> bool:
        """Tries the transport again that is wanted and did not work; whether it is used now."""
        return self._native.retry_way(timeout_ms)

    def read_now(self, advert: Advert, into: Any, *, offset: int = 0, timeout_ms: int | None = None) -> int:
        """Fills `into` from `offset` of what was advertised, and returns how many bytes that were."""
        return self._native.read_now(advert, offset, memory_of(into), timeout_ms)

    def write_now(self, advert: Advert, data: Any, *, offset: int = 0, timeout_ms: int | None = None) -> int:
        """Puts `data` at `offset` of what was advertised. The owner has the bytes when this returns."""
        return self._native.write_now(advert, offset, memory_of(data), timeout_ms)

    def readv_now(self, items: Iterable[Item], *, timeout_ms: int | None = None) -> int:
        """Many reads in one: parts of one advert travel together. If it fails, the buffers hold what had come."""
        return self._native.readv_now(_vector(items), timeout_ms)

    def writev_now(self, items: Iterable[Item], *, timeout_ms: int | None = None) -> int:
        """Many writes in one. Nothing is written unless the owner of every part finds its advert good."""
        return self._native.writev_now(_vector(items), timeout_ms)

    def read(self, advert: Advert, into: Any, *, offset: int = 0, timeout_ms: int | None = None) -> Transfer:
        """As `read_now`, while the caller does something else."""
        return Transfer(self._native.read(advert, offset, memory_of(into), timeout_ms))

    def write(self, advert: Advert, data: Any, *, offset: int = 0, timeout_ms: int | None = None) -> Transfer:
        """As `write_now`, while the caller does something else. `data` must not change until it has ended."""
        return Transfer(self._native.write(advert, offset, memory_of(data), timeout_ms))

    def readv(self, items: Iterable[Item], *, timeout_ms: int | None = None) -> Transfer:
        """As `readv_now`, while the caller does something else."""
        return Transfer(self._native.readv(_vector(items), timeout_ms))

    def writev(self, items: Iterable[Item], *, timeout_ms: int | None = None) -> Transfer:
        """As `writev_now`, while the caller does something else."""
        return Transfer(self._native.writev(_vector(items), timeout_ms))

    def send(self, data: Any, *, tag: int = 0, timeout_ms: int | None = None) -> Transfer:
        """Sends to the next receive of `tag` that the peer posts; done once it has the bytes."""
        return Transfer(self._native.send(tag, memory_of(data), timeout_ms))

    def recv(self, into: Any, *, tag: int = 0, timeout_ms: int | None = None) -> Transfer:
        """Receives the peer's next send of `tag`; done with as many bytes as came."""
        return Transfer(self._native.receive(tag, memory_of(into), timeout_ms))

    def ask(self, topic: int, question: Any, *, timeout_ms: int | None = None) -> bytes:
        """Asks the peer something and waits for its answer. Asked once, never repeated.

        Raises what the peer refuses with, and what the way there fails with.
        """
        return self._native.ask(topic, memory_of(question), timeout_ms)

    def notify(self, name: bytes, content: Any = b"", *, timeout_ms: int | None = None) -> Transfer:
        """Lets the peer know something; done once it has it, behind every write that was done before."""
        return Transfer(self._native.notify(name, memory_of(content), timeout_ms))

    def close(self) -> None:
        """Gives the peer up: what is under way with it fails as closed."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Endpoint:
    """One process's end of transfers. Made by `Endpoint.listen`; a context manager that closes it."""

    def __init__(self, native: _native.Endpoint, *, name: str, incarnation: int, cluster_id: bytes) -> None:
        self._native = native
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()
        self.name = name
        self.incarnation = incarnation
        self.cluster_id = cluster_id

    @classmethod
    def listen(
        cls,
        *,
        secret: bytes,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cluster_id: bytes | None = None,
        congestion: str | None = None,
        connect_timeout_ms: int = CONNECT_MS_MAX,
        transport: str | None = None,
    ) -> Self:
        """Listens at `host`, at a port of the kernel's choice if none is said.

        Endpoints that hold one secret know each other; a cluster's have its `cluster_id` too. `transport` keeps to one
        of `TRANSPORTS`; without it the best that works is taken, for each peer by itself.
        """
        if transport not in (None, *TRANSPORTS):
            raise BadArgument(f"transport is one of {', '.join(TRANSPORTS)}, not {transport!r}")
        incarnation = secrets.randbits(63) | 1
        name = name or f"{socket.gethostname()}-{os.getpid()}-{incarnation & 0xFFFF:04x}"
        cluster = cluster_id or hashlib.sha256(b"weft endpoints " + secret).digest()[:16]
        native = _native.Endpoint(
            host=host,
            port_first=port,
            port_last=port,
            cluster_id=cluster,
            secret=secret,
            name=name,
            incarnation=incarnation,
            congestion=congestion,
            spin_us=SPIN_US_MAX,
            connect_timeout_ms=connect_timeout_ms,
            drain_timeout_ms=DRAIN_MS_MAX,
            ipc=transport in (None, "ipc"),
            bounce=transport == "tcpx",
            rdma=transport in (None, "rdma"),
        )
        return cls(native, name=name, incarnation=incarnation, cluster_id=cluster)

    @classmethod
    def caller(
        cls,
        *,
        secret: bytes,
        name: str,
        cluster_id: bytes,
        congestion: str | None = None,
        transport: str | None = None,
    ) -> Self:
        """One that does not listen: it connects to others, and nobody to it. It advertises and receives nothing."""
        if transport not in (None, *TRANSPORTS):
            raise BadArgument(f"transport is one of {', '.join(TRANSPORTS)}, not {transport!r}")
        incarnation = secrets.randbits(63) | 1
        native = _native.Endpoint(
            host="0.0.0.0",  # noqa: S104 - nothing is bound.
            port_first=0,
            port_last=0,
            cluster_id=cluster_id,
            secret=secret,
            name=name,
            incarnation=incarnation,
            congestion=congestion,
            spin_us=SPIN_US_MAX,
            connect_timeout_ms=CONNECT_MS_MAX,
            ipc=transport in (None, "ipc"),
            bounce=transport == "tcpx",
            rdma=transport in (None, "rdma"),
            listens=False,
        )
        return cls(native, name=name, incarnation=incarnation, cluster_id=cluster_id)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one."""
        return self._native.host, self._native.port

    @property
    def metadata(self) -> bytes:
        """What another process needs to connect here. It holds no secret."""
        host, port = self.address
        return Metadata(host=host, port=port).encode()

    def allocate(self, size_bytes: int) -> memoryview:
        """Memory that processes on this machine read without a system call, once they hold an advert of it.

        It is zero, backed by pages from the start, and this process's for as long as a view or an array of it lives;
        `numpy.frombuffer` makes an array of it. Raises `NoMemory`.
        """
        if size_bytes <= 0:
            raise BadArgument(f"size_bytes is {size_bytes}; memory has at least one byte")
        return memoryview(self._native.allocate(size_bytes))

    def register(self, thing: Any) -> Registration:
        """Lets a buffer, an array or a tensor be advertised; it stays in place until it is released."""
        number, size_bytes = self._native.register(memory_of(thing))
        return Registration(self._native, number, size_bytes)

    def register_address(self, base: int, size_bytes: int) -> Registration:
        """The same for memory that the caller keeps in place, by its address."""
        return Registration(self._native, self._native.register_address(base, size_bytes), size_bytes)

    def connect(self, where: bytes | tuple[str, int], *, timeout_ms: int | None = None, plainly: bool = False) -> Peer:
        """Connects to another endpoint, by its metadata or its address.

        The best transport that works is taken; `plainly`, it is TCP, and whoever asks chooses by `Peer.take_way`.
        """
        host, port = _address(where)
        native = self._native.connect(host, port, timeout_ms, plain=plainly)
        return Peer(native) if plainly else self._met(native)

    def accept(self, timeout_ms: int, *, plainly: bool = False) -> Peer | None:
        """The next endpoint that connected here, None when none did in time. `plainly` as in `connect`."""
        native = self._native.accept(timeout_ms, plain=plainly)
        if native is None:
            return None
        return Peer(native) if plainly else self._met(native)

    def use_rdma(self) -> RdmaRecord | None:
        """Takes this process's device into use and says what to publish of it; None without a device.

        Raises NotSupported when the device lends nothing.
        """
        if (record := self._native.use_rdma()) is None:
            return None
        queue_pair, lid, gid, packet_sequence = record
        return RdmaRecord(queue_pair=queue_pair, lid=lid, gid=gid, packet_sequence=packet_sequence)

    def drop_rdma(self) -> bool:
        """Gives the device up: queue pairs end, and everything goes on over TCP. Whether there was one."""
        return self._native.drop_rdma()

    @property
    def rdma_trouble(self) -> str | None:
        """Why the device in use is of no use any more; None while it works, or without one."""
        return self._native.rdma_trouble()

    def measure(self, host: str, port: int, timeout_ms: int = CONNECT_MS_MAX) -> tuple[float, str]:
        """The best round trip of a few over a connection of its own, in microseconds, and the tier it falls into."""
        return self._native.measure(host, port, timeout_ms)

    def notifications(self, timeout_ms: int = 0) -> list[Notification]:
        """All notifications that arrived, oldest first, waiting for one at most so long."""
        return [
            Notification(sender=sender, name=name, content=content)
            for sender, name, content in self._native.notifications(timeout_ms)
        ]

    def status(self) -> EndpointStatus:
        """What it is doing, and which transport each peer is reached by."""
        report: dict[str, Any] = self._native.status()
        peers = tuple(
            PeerStatus(
                name=name,
                host=host,
                port=port,
                transport=transport,
                wanted=wanted,
                trouble=trouble,
                moved_bytes=moved_bytes,
            )
            for name, host, port, transport, wanted, trouble, moved_bytes in report.pop("peers")
        )
        return EndpointStatus(peers=peers, **report)

    def counters(self) -> dict[str, int]:
        """What its server counted: connections, bytes, refusals by code."""
        return self._native.counters()

    def close(self) -> None:
        """Ends everything: transfers under way fail as closed. Twice is once."""
        self._native.close()

    def _met(self, native: _native.Peer) -> Peer:
        # Aloud, because a slow path taken in silence is what people look for longest.
        with self._lock:
            if self._said.get(native.name) != native.transport:
                self._said[native.name] = native.transport
                _log.info("%s is reached at %s:%d by %s", native.name, native.host, native.port, native.transport)
        return Peer(native)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _vector(items: Iterable[Item]) -> list[Item]:
    return [(advert, offset, memory_of(thing)) for advert, offset, thing in items]


def _address(where: bytes | tuple[str, int]) -> tuple[str, int]:
    if isinstance(where, bytes):
        metadata = Metadata.decode(where)
        return metadata.host, metadata.port
    return where
