"""What a node lends: extents of this machine's memory, served to peers that hold a grant, and how far its peers are.

The native server runs threads of its own; nothing here waits on a peer except `Peer.measure`.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from msgspec import Struct

from weft._native import Connection, Server


class HeldExtent(Struct, frozen=True, kw_only=True):
    """An extent this machine holds."""

    region_id: str
    index: int
    size_bytes: int
    generation: int


class PeerDistance(Struct, frozen=True, kw_only=True):
    """How far a peer is: the best round trip of a few, and the tier it falls into."""

    rtt_us: float
    tier: str


class Lender:
    """The extents of one life of a node, listening at `host` and `port` from its making to its close.

    Made by `Lender.listen`. The methods may be called from any thread and may wait: reserving backs the memory before
    it returns, so a large extent takes a while.
    """

    def __init__(self, server: Server, *, cluster_id: bytes, secret: bytes, name: str, incarnation: int) -> None:
        self._server = server
        self._cluster_id = cluster_id
        self._secret = secret
        self._name = name
        self._incarnation = incarnation

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
    ) -> Self:
        """Listens on the first free port of the range. Raises Unreachable naming the range when none is free."""
        server = Server(
            host=host,
            port_first=port_first,
            port_last=port_last,
            cluster_id=cluster_id,
            secret=secret,
            name=name,
            incarnation=incarnation,
            congestion=congestion,
        )
        return cls(server, cluster_id=cluster_id, secret=secret, name=name, incarnation=incarnation)

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
        connection = Connection(
            host=host,
            port=port,
            cluster_id=self._cluster_id,
            secret=self._secret,
            name=self._name,
            incarnation=self._incarnation,
            timeout_ms=timeout_ms,
        )
        try:
            return PeerDistance(rtt_us=connection.ping(timeout_ms), tier=connection.tier)
        finally:
            connection.close()

    def close(self) -> None:
        """Stops listening, ends the connections and gives all memory back. Closing twice is harmless."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
