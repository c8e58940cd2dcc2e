"""How fast bytes move between here and a node: a region for the time of it, and a trial of the part the node lends."""

import secrets
from collections.abc import Iterator

from weft.client.cluster import Cluster
from weft.client.coordinator import addresses, addresses_of
from weft.dataplane.endpoint import Advert
from weft.dataplane.trial import SIZES, Figure, Trial
from weft.model.errors import CapacityExceeded, NodeNotFound, NodeUnavailable, WeftError
from weft.model.policy import CONNECT_MS_MAX, MIB

_SHARE_BYTES = 64 * MIB
"""What the node is asked to lend for it: the largest size that is tried."""
_LENDERS_MAX = 16


def try_transfers(cluster: Cluster, node_id: str) -> Iterator[Figure]:
    """The figures of every size that fits what the node has free, reads first.

    Raises `NodeNotFound` and `NodeUnavailable`, the latter for a node that does not answer, and for one that lends
    nothing; and `CapacityExceeded` when there is no memory to try with.
    """
    _check_there(cluster, node_id)
    free = cluster.capacity().free_bytes
    if free < 2 * MIB:
        raise CapacityExceeded("the cluster has no memory free to try with", wanted_bytes=_SHARE_BYTES, free_bytes=free)
    share = min(_SHARE_BYTES, max(MIB * 2, free // _LENDERS_MAX // (2 * MIB) * (2 * MIB)))
    # A region is dealt over all that lend, so that one share for each of them gives this node its own.
    region = cluster.region(f"bench-{secrets.token_hex(4)}", size=min(free, share * _LENDERS_MAX))
    try:
        opened = cluster.ask(cluster.coordinator.attach(region.name, "exclusive", cluster.holder))
        where = {known: (host, port) for known, host, port in addresses_of(opened.endpoints)}
        extent = next(
            (
                extent
                for band in opened.region.layout.bands
                for extent in band.extents
                if extent.replicas[0].node_id == node_id
            ),
            None,
        )
        if extent is None or node_id not in where:
            raise NodeUnavailable(f"node {node_id} lends nothing of what is free", node_id=node_id)
        right = Advert.of_extent(
            opened.region.region_id,
            extent.index,
            int(extent.replicas[0].incarnation, 16),
            extent.stripes * opened.region.layout.stripe_bytes,
            opened.grant,
        )
        with cluster.caller().connect(where[node_id]) as peer:
            trial = Trial(peer, right)
            for operation in ("read", "write"):
                for size_bytes in SIZES:
                    if size_bytes <= trial.size_bytes:
                        yield trial.run(operation, size_bytes)
    finally:
        region.delete(force=True)


def _check_there(cluster: Cluster, node_id: str) -> None:
    """Whether the node is in the cluster and answers, before anything is planned for it."""
    members = {str(member.node_id): member.status for member in cluster.describe().members}
    if node_id not in members:
        known = ", ".join(sorted(members)) or "none"
        raise NodeNotFound(f"no node {node_id!r} is in the cluster; those that are: {known}", node_id=node_id)
    where = {known: (host, port) for known, host, port in addresses(cluster.endpoints())}
    if node_id not in where:
        raise NodeUnavailable(f"node {node_id} has not said where it is reached", node_id=node_id)
    host, port = where[node_id]
    try:
        cluster.caller().measure(host, port, CONNECT_MS_MAX)
    except WeftError as error:
        raise NodeUnavailable(
            f"node {node_id} does not answer at {host}:{port} (the coordinator has it as {members[node_id]}): {error}",
            node_id=node_id,
        ) from error
