"""The transfer engine by the fifth seed's names: integers for handles, addresses for memory, tuples that begin with ok.

    from weft.client import uccl as p2p        # in place of: from uccl import p2p

One file over `weft.Endpoint`; a program that used the other changes an import. What is different is what it could not
say: a transfer that failed is polled as `(False, True)` for ever and `failure(id)` says why; every wait has an end; an
item names the very range it was made for, and its owner refuses anything else.

An item has the seed's 64 bytes: address u64, size u32, key u32, count u32, number u32, index u64, and a tail of 32. A
receiver may narrow it by patching address and size. Here the key is the lower half of the range's own address, so that
the place in it is known whatever was patched; number and count are when the right ends and what it is; the index is the
buffer, and the tail is what its owner authenticated.
"""

import ctypes
import itertools
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final

from weft.client import endpoint as own
from weft.dataplane.endpoint import Advert, Peer, Registration
from weft.dataplane.metadata import Metadata
from weft.dataplane.transfer import Transfer
from weft.model.errors import BadArgument, WeftError
from weft.model.policy import CONNECT_MS_MAX, REQUEST_MS_MAX

ITEM_BYTES: Final = 64
_ITEM: Final = struct.Struct("<QIIIIQ32s")
_SIZE_MAX: Final = 2**32 - 1
# How a grant and an advert travel; docs/wire.md. The region of a buffer is named by its number, its holder is nobody.
_GRANT: Final = struct.Struct("<4sBBH16sQQHH")
_ADVERT: Final = struct.Struct("<4sIQQQHH")
_ENDED_MAX: Final = 65_536
"""Transfers that ended are remembered, so that polling again answers the same; past this the oldest are forgotten."""


def parse_metadata(metadata: bytes) -> tuple[str, int, str]:
    """Address, port and device. Raises `BadArgument` for what is none."""
    found = Metadata.decode(metadata)
    return found.host, found.port, found.device


def _of_vectors(verb: str, *, waits: bool, said: str) -> Any:
    """A call that moves vectors of items by a verb of `Peer`, or begins to."""

    def call(
        self: "Endpoint",
        conn_id: int,
        mr_ids: Sequence[int],
        ptrs: Sequence[int],
        sizes: Sequence[int],
        items: Sequence[bytes],
        num_iovs: int | None = None,
    ) -> bool | tuple[bool, int]:
        _same_length(num_iovs, mr_ids, ptrs, sizes, items)

        def move(peer: Peer) -> Any:
            return getattr(peer, verb)(self._vector(peer, mr_ids, ptrs, sizes, items))

        return self._now(conn_id, move) if waits else self._begin(conn_id, move)

    call.__doc__ = said
    return call


def _of_rows(verb: str, *, waits: bool, said: str) -> Any:
    """A call that sends or receives many, as one transfer: each meets one of the other side's, in their order."""

    def call(
        self: "Endpoint",
        conn_id: int,
        mr_ids: Sequence[int],
        ptrs: Sequence[int],
        sizes: Sequence[int],
        num_iovs: int | None = None,
        tag: int = 0,
    ) -> bool | tuple[bool, int]:
        _same_length(num_iovs, mr_ids, ptrs, sizes)

        def begin(peer: Peer) -> _Many:
            row = [self._at(*one) for one in zip(mr_ids, ptrs, sizes, strict=True)]
            return _Many(getattr(peer, verb), row, tag)

        return self._now(conn_id, lambda peer: begin(peer).wait()) if waits else self._begin(conn_id, begin)

    call.__doc__ = said
    return call


class Endpoint:
    """An endpoint whose calls answer with tuples and never raise for what can go wrong with a peer."""

    parse_metadata = staticmethod(parse_metadata)

    def __init__(self, local_gpu_idx: int = 0, num_cpus: int = 0, **how: Any) -> None:
        """The seed's two numbers choose nothing here: there is no GPU to begin with, and no thread that spins."""
        del local_gpu_idx, num_cpus
        self._endpoint = own.Endpoint(**how)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._peers: dict[int, Peer] = {}
        self._by_metadata: dict[bytes, int] = {}
        self._memory: dict[int, tuple[Registration, int]] = {}
        self._items: dict[tuple[int, int, int], bytes] = {}
        self._transfers: dict[int, Transfer | _Many] = {}

    # Who is where.

    def get_metadata(self) -> bytes:
        """What another process needs to connect here."""
        return self._endpoint.metadata

    get_unified_metadata = get_metadata

    def connect(self, ip_addr: str, remote_gpu_idx: int | str = 0, remote_port: int = 0) -> tuple[bool, int]:
        """Connects to the endpoint at an address."""
        del remote_gpu_idx
        try:
            peer = self._endpoint.connect((ip_addr, remote_port))
        except WeftError:
            return False, 0
        return True, self._keep(peer)

    def accept(self, timeout_ms: int = CONNECT_MS_MAX) -> tuple[bool, str, str, int]:
        """The next endpoint that connected here: ok, its address, its device, the connection."""
        try:
            peer = self._endpoint.accept(timeout_ms)
        except WeftError:
            peer = None
        return (False, "", "", 0) if peer is None else (True, peer.address[0], "", self._keep(peer))

    def start_passive_accept(self) -> bool:
        """Peers are let in from the beginning, and read and write without being accepted. Nothing is to be started."""
        return True

    def add_remote_endpoint(self, metadata: bytes) -> tuple[bool, int]:
        """Connects by metadata; once for the same."""
        with self._lock:
            known = self._by_metadata.get(metadata)
            if known is not None:
                return True, known
        try:
            peer = self._endpoint.connect(metadata)
        except (WeftError, ValueError):
            return False, 0
        number = self._keep(peer)
        with self._lock:
            self._by_metadata[metadata] = number
        return True, number

    def remove_remote_endpoint(self, conn_id: int) -> bool:
        """Gives a connection up: what is under way on it fails. False when there is none of this number."""
        with self._lock:
            peer = self._peers.pop(conn_id, None)
            self._by_metadata = {key: number for key, number in self._by_metadata.items() if number != conn_id}
        if peer is None:
            return False
        peer.close()
        return True

    # What may be reached.

    def reg(self, ptr: int, size: int, float_type: int = 0) -> tuple[bool, int]:
        """Registers memory by address. A number is never given out twice."""
        del float_type
        try:
            registration = self._endpoint.register_address(ptr, size)
        except (WeftError, OverflowError, TypeError):
            return False, 0
        with self._lock:
            self._memory[registration.number] = registration, ptr
        return True, registration.number

    def regv(self, ptrs: Sequence[int], sizes: Sequence[int]) -> tuple[bool, list[int]]:
        """Registers all or none."""
        if len(ptrs) != len(sizes):
            raise BadArgument(f"{len(ptrs)} addresses and {len(sizes)} sizes; give each its size")
        made: list[int] = []
        for ptr, size in zip(ptrs, sizes, strict=True):
            ok, number = self.reg(ptr, size)
            if not ok:
                for earlier in made:
                    self.dereg(earlier)
                return False, []
            made.append(number)
        return True, made

    def dereg(self, mr_id: int) -> bool:
        """Takes back its items and lets go of the memory. False when it is not registered, or a peer is inside."""
        with self._lock:
            found = self._memory.get(mr_id)
        if found is None:
            return False
        try:
            found[0].release()
        except WeftError:
            return False
        with self._lock:
            self._memory.pop(mr_id, None)
            self._items = {key: item for key, item in self._items.items() if key[0] != mr_id}
        return True

    def advertise(self, *arguments: int) -> tuple[bool, bytes]:
        """An item for `size` bytes at `ptr`: called with (mr, ptr, size), or with (conn, mr, ptr, size) as it once was.

        The same range gives the same item until it is deregistered.
        """
        mr_id, ptr, size = arguments[-3:]
        with self._lock:
            found, known = self._memory.get(mr_id), self._items.get((mr_id, ptr, size))
        if known is not None:
            return True, known
        if found is None or not 0 < size <= _SIZE_MAX:
            return False, b""
        registration, base = found
        try:
            item = _pack(registration.advertise(ptr - base, size), ptr, size)
        except (WeftError, OverflowError):
            return False, b""
        with self._lock:
            self._items[mr_id, ptr, size] = item
        return True, item

    def advertisev(
        self, mr_ids: Sequence[int], ptrs: Sequence[int], sizes: Sequence[int], num_iovs: int | None = None
    ) -> tuple[bool, list[bytes]]:
        """Items for all or for none."""
        _same_length(num_iovs, mr_ids, ptrs, sizes)
        items = [self.advertise(*one) for one in zip(mr_ids, ptrs, sizes, strict=True)]
        return (True, [item for _, item in items]) if all(ok for ok, _ in items) else (False, [])

    def queue_read_response(self, conn_id: int, item: bytes) -> bool:
        """Whether the item is one of ours and can be read. The reader fetches it itself, so nothing is queued."""
        with self._lock:
            if conn_id not in self._peers or len(item) != ITEM_BYTES:
                return False
            wanted = _ITEM.unpack(item)
            ours = [_ITEM.unpack(known) for known in self._items.values()]
        return any(
            wanted[5:] == known[5:] and known[0] <= wanted[0] and wanted[0] + wanted[1] <= known[0] + known[1]
            for known in ours
        )

    # Moving bytes.

    def read_async(self, conn_id: int, mr_id: int, ptr: int, size: int, item: bytes) -> tuple[bool, int]:
        """Begins to fetch what an item names."""
        begun: tuple[bool, int] = self.readv_async(conn_id, [mr_id], [ptr], [size], [item])
        return begun

    def write_async(self, conn_id: int, mr_id: int, ptr: int, size: int, item: bytes) -> tuple[bool, int]:
        """Begins to put bytes where an item names."""
        begun: tuple[bool, int] = self.writev_async(conn_id, [mr_id], [ptr], [size], [item])
        return begun

    readv_async = _of_vectors("readv", waits=False, said="Begins to fetch what items name: all, or none is begun.")
    writev_async = _of_vectors("writev", waits=False, said="Begins to put bytes where items name: all, or none.")

    def read(self, conn_id: int, mr_id: int, ptr: int, size: int, item: bytes) -> bool:
        """Fetches what an item names."""
        return bool(self.readv(conn_id, [mr_id], [ptr], [size], [item]))

    def write(self, conn_id: int, mr_id: int, ptr: int, size: int, item: bytes) -> bool:
        """Puts bytes where an item names."""
        return bool(self.writev(conn_id, [mr_id], [ptr], [size], [item]))

    readv = _of_vectors("readv_now", waits=True, said="Fetches what items name.")
    writev = _of_vectors("writev_now", waits=True, said="Puts bytes where items name; nowhere if one is refused.")

    def send_async(self, conn_id: int, mr_id: int, ptr: int, size: int, tag: int = 0) -> tuple[bool, int]:
        """Begins to send to the next receive of the tag that the peer posts."""
        return self._begin(conn_id, lambda peer: peer.send(self._at(mr_id, ptr, size), tag=tag))

    def recv_async(self, conn_id: int, mr_id: int, ptr: int, size: int, tag: int = 0) -> tuple[bool, int]:
        """Begins to receive the peer's next send of the tag."""
        return self._begin(conn_id, lambda peer: peer.recv(self._at(mr_id, ptr, size), tag=tag))

    send_async_with_tag = send_async
    recv_async_with_tag = recv_async

    sendv_async = _of_rows("send", waits=False, said="Begins to send many, each to a receive of its own.")
    recvv_async = _of_rows("recv", waits=False, said="Begins to receive many, each a send of its own.")
    sendv = _of_rows("send", waits=True, said="Sends many, and returns once the peer has all.")
    recvv = _of_rows("recv", waits=True, said="Receives many, and returns once all are here.")

    def send(self, conn_id: int, mr_id: int, ptr: int, size: int, tag: int = 0) -> bool:
        """Sends, and returns once the peer has it."""
        return self._now(conn_id, lambda peer: peer.send(self._at(mr_id, ptr, size), tag=tag).wait())

    def recv(self, conn_id: int, mr_id: int, ptr: int, size: int, tag: int = 0) -> bool:
        """Receives, and returns once it is here."""
        return self._now(conn_id, lambda peer: peer.recv(self._at(mr_id, ptr, size), tag=tag).wait())

    def poll_async(self, transfer_id: int) -> tuple[bool, bool]:
        """(ok, done) of a transfer, the same for ever once it has ended; (False, True) when it failed or never was."""
        with self._lock:
            transfer = self._transfers.get(transfer_id)
        if transfer is None:
            return False, True
        if not transfer.poll():
            return True, False
        return transfer.state == "done", True

    def failure(self, transfer_id: int) -> str:
        """Why a transfer failed; nothing when it did not."""
        with self._lock:
            transfer = self._transfers.get(transfer_id)
        if transfer is None:
            return f"there is no transfer {transfer_id}"
        try:
            if transfer.poll():
                transfer.result()
        except WeftError as error:
            return str(error)
        return ""

    # Words.

    def send_notification(self, conn_id: int, name: bytes, message: bytes) -> bool:
        """Lets the peer know something, of any size."""
        return self._now(conn_id, lambda peer: peer.notify(name, message, timeout_ms=REQUEST_MS_MAX).wait())

    def get_notifications(self) -> list[tuple[bytes, bytes]]:
        """Names and messages that arrived since this was last asked."""
        return [(notice.name, notice.content) for notice in self._endpoint.notifications()]

    def close(self) -> None:
        """Ends everything. Twice is once."""
        self._endpoint.close()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, peer: Peer) -> int:
        with self._lock:
            number = next(self._numbers)
            self._peers[number] = peer
            return number

    def _peer(self, conn_id: int) -> Peer:
        with self._lock:
            peer = self._peers.get(conn_id)
        if peer is None:
            raise BadArgument(f"there is no connection {conn_id}; it was removed, or never was")
        return peer

    def _at(self, mr_id: int, ptr: int, size: int) -> Any:
        with self._lock:
            found = self._memory.get(mr_id)
        if found is None:
            raise BadArgument(f"there is no registration {mr_id}; it was deregistered, or never was")
        registration, base = found
        if size <= 0 or ptr < base or ptr + size > base + registration.size_bytes:
            raise BadArgument(f"{size} bytes at {ptr:#x} are not inside registration {mr_id}")
        return (ctypes.c_char * size).from_address(ptr)

    def _vector(
        self, peer: Peer, mr_ids: Sequence[int], ptrs: Sequence[int], sizes: Sequence[int], items: Sequence[bytes]
    ) -> list[tuple[Advert, int, Any]]:
        parts = []
        for mr_id, ptr, size, item in zip(mr_ids, ptrs, sizes, items, strict=True):
            advert, offset, advertised = self._unpack(peer, item)
            if size > advertised:
                raise BadArgument(f"{size} bytes are more than the {advertised} its item names")
            parts.append((advert, offset, self._at(mr_id, ptr, size)))
        return parts

    def _unpack(self, peer: Peer, item: bytes) -> tuple[Advert, int, int]:
        if len(item) != ITEM_BYTES:
            raise BadArgument(f"an item has {ITEM_BYTES} bytes, this one {len(item)}")
        address, size, key, count, ends_s, buffer, tail = _ITEM.unpack(item)
        region, offset = f"buffer-{buffer:016x}".encode(), (address - key) & _SIZE_MAX
        writable, rest_ms = bool(count & 1), count >> 1
        mode, rights = (2, 3) if writable else (1, 1)
        ends_ms = ends_s * 1_000 + rest_ms
        head = _GRANT.pack(b"WGR1", mode, rights, 0, self._endpoint.cluster_id, 1, ends_ms, len(region), 0)
        grant, owner = head + region + tail, peer.name.encode()
        fixed = _ADVERT.pack(b"WAD1", writable, buffer, peer.incarnation, offset + size, len(owner), len(grant))
        return Advert(fixed + owner + grant), offset, size

    def _begin(self, conn_id: int, begin: Any) -> tuple[bool, int]:
        try:
            transfer: Transfer | _Many = begin(self._peer(conn_id))
        except WeftError:
            return False, 0
        with self._lock:
            number = next(self._numbers)
            self._transfers[number] = transfer
            if len(self._transfers) > _ENDED_MAX:
                oldest = next((old for old, kept in self._transfers.items() if kept.poll()), None)
                if oldest is not None:
                    del self._transfers[oldest]
        return True, number

    def _now(self, conn_id: int, move: Any) -> bool:
        try:
            move(self._peer(conn_id))
        except WeftError:
            return False
        return True


def update_item(item: bytes, address: int, size: int) -> bytes:
    """The same item for a part of its range."""
    _, _, *rest = _ITEM.unpack(item)
    return _ITEM.pack(address, size, *rest)


class _Many:
    """Several transfers that are polled as one: done when all are, failed as the first that did."""

    def __init__(self, begin: Any, buffers: Sequence[Any], tag: int) -> None:
        self._transfers: list[Transfer] = []
        try:
            for buffer in buffers:
                self._transfers.append(begin(buffer, tag=tag))
        except WeftError:
            for begun in self._transfers:
                begun.cancel()
            raise

    def poll(self) -> bool:
        return all(one.poll() for one in self._transfers)

    @property
    def state(self) -> str:
        states = [one.state for one in self._transfers]
        return next((state for state in states if state != "done"), "done")

    def wait(self) -> int:
        return sum([one.wait() for one in self._transfers])

    def result(self) -> int:
        return sum([one.result() for one in self._transfers])


def _pack(advert: Advert, address: int, size: int) -> bytes:
    ends_ms = struct.unpack_from("<Q", advert.grant, 32)[0]
    count = (ends_ms % 1_000) << 1 | advert.writable
    return _ITEM.pack(address, size, address & _SIZE_MAX, count, ends_ms // 1_000, advert.buffer, advert.grant[-32:])


def _same_length(num_iovs: int | None, *lists: Sequence[Any]) -> None:
    lengths = {len(one) for one in lists} | ({num_iovs} if num_iovs is not None else set())
    if len(lengths) != 1:
        raise BadArgument(f"the vectors have different lengths: {sorted(lengths)}")
