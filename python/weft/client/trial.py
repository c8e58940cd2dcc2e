"""How fast bytes move between here and a node: a region for the time of it, and a trial of the part the node lends."""

import secrets
from collections.abc import Iterator

from weft.client.cluster import Cluster
from weft.client.coordinator import addresses_of
from weft.dataplane.holder import Party
from weft.dataplane.trial import SIZES, Figure, Trial
from weft.model.errors import CapacityExceeded, NodeUnavailable
from weft.model.policy import MIB

_SHARE_BYTES = 64 * MIB
"""What the node is asked to lend for it: the largest size that is tried."""
_LENDERS_MAX = 16


def try_transfers(cluster: Cluster, node_id: str) -> Iterator[Figure]:
    """The figures of every size that fits what the node has free, reads first. Raises `NodeUnavailable`."""
    party = Party(
        cluster_id=bytes.fromhex(cluster.describe().cluster_id),
        secret=cluster.secret,
        name=cluster.holder,
        incarnation=secrets.randbits(63) | 1,
    )
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
            raise NodeUnavailable(f"node {node_id} lends nothing of what is free, or is not there", node_id=node_id)
        host, port = where[node_id]
        incarnation = int(extent.replicas[0].incarnation, 16)
        trial = Trial(party, host, port, grant=opened.grant, index=extent.index, incarnation=incarnation)
        try:
            for operation in ("read", "write"):
                for size_bytes in SIZES:
                    if size_bytes <= trial.size_bytes:
                        yield trial.run(operation, size_bytes)
        finally:
            trial.close()
    finally:
        region.delete(force=True)
