"""`start_pager`: the second seed's pager, with its coordinator.

It claims the faults of a range of memory, registers where this node serves its pages, and learns its peers: those that
are there at once, and those that join later from a thread that asks again. No fault ever waits for the coordinator.
"""

import logging
import secrets
from types import TracebackType
from typing import Self

from weft.client.chores import Chores
from weft.client.cluster import Cluster, connect
from weft.client.coordinator import addresses
from weft.dataplane import FaultStats, Lender, PageOwner, Pager
from weft.model.errors import BadArgument, WeftError
from weft.model.policy import PORT_FIRST, PORT_LAST

_log = logging.getLogger(__name__)

# While peers are missing they are asked for this soon and then ever less often; once all are known, this seldom.
_REFRESH_FIRST_S = 0.1
_REFRESH_S = 5.0


class PagerHandle:
    """A running pager. `stop` ends it; so does leaving its `with` block."""

    def __init__(self, pager: Pager, cluster: Cluster, total_nodes: int) -> None:
        self._pager = pager
        self._cluster = cluster
        self._known: dict[str, tuple[str, int]] = {}
        self._peers_expected = max(0, total_nodes - 1)
        self._refresh_s = _REFRESH_FIRST_S
        self._chores = Chores(f"weft pager of node {pager.node_id}", [self._refresh])

    @property
    def node_id(self) -> int:
        """This node's number."""
        return self._pager.node_id

    @property
    def port(self) -> int:
        """The port this node's pages are served at."""
        return self._pager.port

    @property
    def peers(self) -> list[int]:
        """The nodes known by now."""
        return sorted(int(node_id) for node_id in self._known)

    def stats(self) -> FaultStats:
        """What faults cost so far, by the seed's names and rules."""
        return self._pager.stats()

    def get_owner(self, page: int) -> PageOwner:
        """Who has a page: Unknown(), Local() or Remote(node)."""
        return self._pager.get_owner(page)

    def set_owner(self, page: int, owner: PageOwner) -> None:
        """Says who has a page that was not touched here yet."""
        self._pager.set_owner(page, owner)

    def claim_page(self, page: int) -> bool:
        """Makes a page nobody is known to have this node's; False when somebody has it already."""
        return self._pager.claim_page(page)

    def page_count(self) -> int:
        """How many pages have a known owner."""
        return self._pager.page_count()

    def learn_peers(self) -> None:
        """Asks the coordinator for peers now. Raises what asking raises."""
        for node_id, host, port in addresses(self._cluster.endpoints(), without=str(self._pager.node_id)):
            # A node with a name is an agent, which lends extents and has no pager.
            if node_id.isdigit() and self._known.get(node_id) != (host, port):
                self._pager.set_peer(int(node_id), host, port)
                self._known[node_id] = (host, port)

    def start(self) -> None:
        """Begins to look for nodes that join later."""
        self._chores.start()

    def stop(self) -> None:
        """Ends the pager and stops serving peers. Stopping twice is harmless."""
        self._chores.stop()
        self._pager.stop()
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refresh(self) -> float | None:
        try:
            self.learn_peers()
        except WeftError as failure:
            _log.info("peers could not be looked up: %s", failure)
        complete = len(self._known) >= self._peers_expected
        self._refresh_s = _REFRESH_S if complete else min(2 * self._refresh_s, _REFRESH_S)
        return self._refresh_s


def start_pager(
    base: int,
    size_bytes: int,
    node_id: int,
    total_nodes: int,
    coordinator_url: str | None = None,
    *,
    host: str = "127.0.0.1",
    port_first: int = PORT_FIRST,
    port_last: int = PORT_LAST,
    secret: str | bytes | None = None,
) -> PagerHandle:
    """Starts a pager over `size_bytes` bytes of memory at the address `base`, as node `node_id` of `total_nodes`.

    The node is in the cluster already (POST /cluster or POST /nodes); its endpoint is registered here, at `host` and
    the first free port of the range. Raises NodeNotFound or ClusterNotFound when it is not, Unreachable without a
    coordinator, NoPrivilege without the right to userfaultfd; then nothing is left running.
    """
    if not 0 <= node_id < total_nodes:
        raise BadArgument(f"node {node_id} is none of {total_nodes} nodes; they are numbered from 0")
    cluster = connect(coordinator_url, secret=secret)
    try:
        cluster_id = bytes.fromhex(cluster.describe().cluster_id)
        incarnation = secrets.randbits(63) + 1
        lender = Lender.listen(
            host=host,
            port_first=port_first,
            port_last=port_last,
            cluster_id=cluster_id,
            secret=cluster.secret,
            name=str(node_id),
            incarnation=incarnation,
        )
        pager = Pager.claim(
            base=base,
            size_bytes=size_bytes,
            node_id=node_id,
            lender=lender,
            cluster_id=cluster_id,
            secret=cluster.secret,
            incarnation=incarnation,
        )
    except BaseException:
        cluster.close()
        raise
    handle = PagerHandle(pager, cluster, total_nodes)
    try:
        cluster.ask(cluster.coordinator.register_endpoint(str(node_id), host, pager.port))
        handle.learn_peers()
    except BaseException:
        handle.stop()
        raise
    handle.start()
    return handle
