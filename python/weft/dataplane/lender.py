"""What a node lends: extents of this machine's memory, served to peers that hold a grant, and how far its peers are.

A node is an endpoint like any other, which keeps its peers' messages for whoever answers them. Its threads are native;
nothing here waits on a peer except `measure` and `dial`.
"""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

from weft import _native
from weft._native import Server
from weft.dataplane.choice import Registered
from weft.dataplane.endpoint import Endpoint
from weft.dataplane.holder import Holder
from weft.dataplane.rdma import RdmaRecord
from weft.dataplane.slots import Slots
from weft.dataplane.ways import PeerDistance, WayReport, Ways
from weft.model.policy import CONNECT_MS_MAX, SPIN_US_MAX

_log = logging.getLogger(__name__)

_NOT_NEAR: Final = "WEFT_TRANSPORT leaves it out"


class HeldExtent(Struct, frozen=True, kw_only=True):
    """An extent this machine holds."""

    region_id: str
    index: int
    size_bytes: int
    generation: int


class Message(Struct, frozen=True, kw_only=True):
    """What a peer sent. `ticket` is where the answer goes, None when the sender wants none."""

    sender: str
    topic: int
    payload: bytes
    ticket: tuple[int, int, int] | None


class Lender:
    """The extents of one life of a node, listening at `host` and `port` from its making to its close.

    Made by `Lender.listen`. The methods may be called from any thread and may wait: reserving backs the memory before
    it returns, so a large extent takes a while.
    """

    def __init__(
        self, endpoint: Endpoint, server: Server, *, near: bool = True, say: Callable[[str], None] = _log.info
    ) -> None:
        self._endpoint = endpoint
        self._server = server
        own = Registered(name=endpoint.name, host=server.host, port=server.port)
        self._ways = Ways(endpoint, own, unfit={} if near else {"ipc": _NOT_NEAR}, say=say)

    @classmethod
    def listen(
        cls,
        *,
        host: str,
        port_first: int,
        port_last: int,
        cluster_id: bytes,
        secret: bytes,
        name: str,
        incarnation: int,
        congestion: str | None = None,
        near: bool = True,
        say: Callable[[str], None] = _log.info,
    ) -> Self:
        """Listens on the first free port of the range. Raises Unreachable naming the range when none is free.

        `near` says whether objects may go to and from processes of this machine without a network. `say` hears which
        way is taken to each peer, and why.
        """
        native = _native.Endpoint(
            host=host,
            port_first=port_first,
            port_last=port_last,
            cluster_id=cluster_id,
            secret=secret,
            name=name,
            incarnation=incarnation,
            congestion=congestion,
            spin_us=SPIN_US_MAX,
            connect_timeout_ms=CONNECT_MS_MAX,
            # Lent over RDMA only when `lend_rdma` is asked to.
            rdma=False,
            ipc=near,
            inbox=True,
        )
        endpoint = Endpoint(native, name=name, incarnation=incarnation, cluster_id=cluster_id)
        return cls(endpoint, Server(native), near=near, say=say)

    @property
    def host(self) -> str:
        """The address it listens at."""
        return self._server.host

    @property
    def port(self) -> int:
        """The port it listens at: the real one, never a guess."""
        return self._server.port

    @property
    def server(self) -> Server:
        """The native server, for the pager that shares it."""
        return self._server

    def lend_rdma(self) -> RdmaRecord | None:
        """Lends over RDMA as well, and says what to publish; None when this process uses no device."""
        if (record := self._server.lend_rdma()) is None:
            return None
        queue_pair, lid, gid, packet_sequence = record
        return RdmaRecord(queue_pair=queue_pair, lid=lid, gid=gid, packet_sequence=packet_sequence)

    def lend_near(self) -> None:
        """Hands extents to processes of this machine as well: they map them and read without this process.

        Raises what the system says where there are no UNIX sockets; memory is reached over TCP then.
        """
        self._server.lend_near()

    def reserve_extent(self, region_id: str, index: int, size_bytes: int, generation: int) -> None:
        """Makes room for an extent and backs it; zero until written. Raises NoMemory when the machine has none left."""
        self._server.reserve_extent(region_id, index, size_bytes, generation)

    def raise_generation(self, region_id: str, generation: int, timeout_ms: int = 2000) -> None:
        """From now on refuses grants of the region older than this generation; waits for transfers under older ones."""
        self._server.raise_generation(region_id, generation, timeout_ms)

    def release_extent(self, region_id: str, index: int) -> None:
        """Gives the memory of an extent back to the machine."""
        self._server.release_extent(region_id, index)

    def extents(self) -> tuple[HeldExtent, ...]:
        """What is held now."""
        return tuple(
            HeldExtent(region_id=region_id, index=index, size_bytes=size_bytes, generation=generation)
            for region_id, index, size_bytes, generation in self._server.extents()
        )

    def counters(self) -> Mapping[str, int]:
        """What was served so far, by name."""
        return self._server.counters()

    def measure(self, host: str, port: int, timeout_ms: int = 2000) -> PeerDistance:
        """Measures the way to a peer over a connection of its own."""
        rtt_us, tier = self._endpoint.measure(host, port, timeout_ms)
        return PeerDistance(rtt_us=rtt_us, tier=tier)

    def slots(self) -> Slots:
        """Memory of this machine that no region of the cluster is made of, for objects that come and go."""
        return Slots(self._endpoint)

    def receive(self, timeout_ms: int) -> Message | None:
        """The next message of any peer, or None when none came in time."""
        received = self._server.receive_message(timeout_ms)
        if received is None:
            return None
        sender, topic, payload, ticket = received
        return Message(sender=sender, topic=topic, payload=payload, ticket=ticket)

    def answer(self, ticket: tuple[int, int, int], data: bytes) -> None:
        """Answers a message. An answer nobody waits for any more goes nowhere."""
        self._server.answer(ticket, data)

    def refuse(self, ticket: tuple[int, int, int], code: str, detail: str) -> None:
        """Refuses a message, with one of the wire's codes."""
        self._server.refuse(ticket, code, detail)

    @property
    def incarnation(self) -> int:
        """The life this is of."""
        return self._endpoint.incarnation

    def dial(self, node_id: str, host: str, port: int) -> Holder:
        """Another node's store, as this node reaches it: by what both registered, where that is known."""
        if self._ways.knows(node_id, host, port):
            return Holder(self._ways.connect(node_id), node_id)
        return Holder.dial(self._endpoint, node_id, host, port)

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What is registered now, this node's own record with it."""
        self._ways.learn(records)

    def tend(self) -> None:
        """Turns the ways whose records have changed, and tries again what broke."""
        self._ways.tend()

    def ways(self) -> list[WayReport]:
        """How the nodes are reached that this one connected to, and how much moved."""
        return self._ways.reports()

    def drop_rdma(self) -> bool:
        """Lends over TCP alone from now on; nothing fails of it. Whether there was a device."""
        return self._endpoint.drop_rdma()

    @property
    def rdma_trouble(self) -> str | None:
        """Why the device in use is of no use any more; None while it works, or without one."""
        return self._endpoint.rdma_trouble

    def close(self) -> None:
        """Stops listening, ends the connections and gives all memory back. Closing twice is harmless."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
