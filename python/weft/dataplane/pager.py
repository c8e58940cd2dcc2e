"""The pager of the second seed: memory of the caller's whose absent pages come from other nodes.

Two machines map the same number of bytes, each starts a pager over its own, and each keeps a directory saying where a
page is: here, on another node, or not known yet. A page not known is claimed on first touch and begins as zeros; a page
another node owns is fetched from there and the directory keeps naming the owner, so what is here is a copy.

    pager.set_owner(7, Remote(1))                 # page 7 lives on node 1
    memory[7 * 4096]                              # a remote fault: node 1 sends the page

Bytes are addressed by page number, never by address, so the bases may differ from machine to machine. This is the local
view of one window; two nodes that first touch the same page each claim it for themselves. Regions, whose pages have one
home each, are the way to share without agreeing first.
"""

from typing import Self

from msgspec import Struct

from weft._native import Window
from weft.dataplane.lender import Lender
from weft.dataplane.stats import FaultStats
from weft.model.errors import Closed


class Unknown(Struct, frozen=True):
    """Nobody is known to have the page: the first touch here claims it."""


class Local(Struct, frozen=True):
    """The page belongs to this node."""


class Remote(Struct, frozen=True):
    """The page belongs to another node and comes from there."""

    node_id: int


PageOwner = Unknown | Local | Remote


class Pager:
    """A running pager over one range of memory, made by `Pager.claim`; it ends with `stop`."""

    def __init__(self, window: Window, lender: Lender, *, node_id: int) -> None:
        self._window: Window | None = window
        self._lender = lender
        self._node_id = node_id

    @classmethod
    def claim(
        cls,
        *,
        base: int,
        size_bytes: int,
        node_id: int,
        lender: Lender,
        cluster_id: bytes,
        secret: bytes,
        incarnation: int,
        congestion: str | None = None,
    ) -> Self:
        """Takes over the faults of `size_bytes` bytes from the address `base`, and serves them to peers by `lender`.

        The range must be whole pages of memory that stays mapped until `stop`; pages already touched are kept as they
        are. Raises NoPrivilege when this process may not use userfaultfd, and BadArgument for a range that cannot be
        claimed. The pager owns the lender from here on, also when claiming fails.
        """
        try:
            window = Window.claim_memory(
                base=base,
                size_bytes=size_bytes,
                node_id=node_id,
                server=lender.server,
                cluster_id=cluster_id,
                secret=secret,
                name=str(node_id),
                incarnation=incarnation,
                congestion=congestion,
            )
        except BaseException:
            lender.close()
            raise
        return cls(window, lender, node_id=node_id)

    @property
    def node_id(self) -> int:
        """This node's number."""
        return self._node_id

    @property
    def port(self) -> int:
        """The port peers reach this memory at."""
        return self._lender.port

    def set_peer(self, node_id: int, host: str, port: int) -> None:
        """Says where another node is reached from now on. It is dialled by the first fault that needs it."""
        self._running().set_peer(str(node_id), host, port)

    def get_owner(self, page: int) -> PageOwner:
        """Who has the page, as far as this node knows."""
        owner = self._running().owner(page)
        match owner:
            case "unknown":
                return Unknown()
            case "local":
                return Local()
            case _:
                return Remote(int(owner))

    def set_owner(self, page: int, owner: PageOwner) -> None:
        """Says who has a page that was not touched here yet."""
        match owner:
            case Remote(node_id):
                self._running().set_owner(page, str(node_id))
            case Local():
                self._running().set_owner(page, str(self._node_id))
            case Unknown():
                self._running().set_owner(page, None)

    def claim_page(self, page: int) -> bool:
        """Makes a page nobody is known to have this node's; False when somebody has it already."""
        return self._running().claim(page)

    def page_count(self) -> int:
        """How many pages have a known owner."""
        return self._running().page_count()

    def stats(self) -> FaultStats:
        """What faults cost so far."""
        return FaultStats.from_native(self._running().stats())

    def stop(self) -> None:
        """Ends the fault threads and stops serving peers. Stopping twice is harmless.

        Pages that are here stay. Touching one that is another node's and never came is SIGBUS from then on; pages
        nobody owned are fresh memory again and read as zeros.
        """
        window, self._window = self._window, None
        if window is not None:
            try:
                window.close()
            finally:
                self._lender.close()

    def _running(self) -> Window:
        if self._window is None:
            raise Closed(f"the pager of node {self._node_id} was stopped")
        return self._window
