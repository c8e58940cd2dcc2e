"""A region: the cluster's named range of bytes, and where each byte of it lives.

A region's layout is a list of bands, and a band stripes its part of the region over its extents. Where a page lives
follows by division, so there is no table of pages anywhere in the control plane:

    band 0: stripes 0..5 over a and b        a holds 0 2 4, b holds 1 3 5
    band 1: stripes 6..7 over a alone        a holds 6 7 in an extent of their own

Stripe s of a band that begins at f is in extent (s - f) mod n, at ((s - f) div n) x 2 MiB. Bands exist because lenders
have unequal room: the first goes over all of them up to the smallest room, the next over those with room left, and so
everything that is lent can be used.
"""

from bisect import bisect_right
from enum import StrEnum

import msgspec

from weft.model.ids import AttachmentId, Generation, Incarnation, NodeId, RegionId, RegionName
from weft.model.policy import STRIPE_BYTES


class RegionState(StrEnum):
    """planned → ready → (damaged) → deleting; a plan that lenders could not carry out is failed."""

    PLANNED = "planned"
    READY = "ready"
    DAMAGED = "damaged"
    FAILED = "failed"
    DELETING = "deleting"


class Replica(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One copy of an extent: held by a node in one life of it, and by no later one."""

    node_id: NodeId
    incarnation: Incarnation


class Extent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One lender's part of a band. `index` is unique over the whole region."""

    index: int
    stripes: int
    replicas: tuple[Replica, ...]

    @property
    def home(self) -> Replica:
        """The replica that answers for the pages of this extent. There is one until far memory raises it."""
        return self.replicas[0]

    @property
    def size_bytes(self) -> int:
        """How much memory a holder of this extent sets aside."""
        return self.stripes * STRIPE_BYTES


class Band(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run of stripes spread over extents in turn."""

    first_stripe: int
    stripes: int
    extents: tuple[Extent, ...]


class Layout(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where everything in a region lives."""

    generation: Generation
    bands: tuple[Band, ...]

    def extents(self) -> list[Extent]:
        """Every extent, in order of index."""
        return [extent for band in self.bands for extent in band.extents]

    def lenders(self) -> list[Replica]:
        """Every (node, incarnation) that holds a part, once, in order of first appearance."""
        return list(dict.fromkeys(replica for extent in self.extents() for replica in extent.replicas))

    def extents_of(self, node_id: NodeId) -> list[Extent]:
        """The extents a node holds a replica of."""
        return [extent for extent in self.extents() if any(replica.node_id == node_id for replica in extent.replicas)]


class Region(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the log says of a region.

    `generation` is that of the newest attachment ever opened, 0 before the first. `floor` is the lowest generation
    lenders accept: the oldest attachment still open, or one more than the newest ever when none is.
    """

    region_id: RegionId
    name: RegionName
    size_bytes: int
    reserved_bytes: int
    state: RegionState
    generation: Generation
    floor: Generation
    sealed: bool
    layout: Layout
    attachment_ids: tuple[AttachmentId, ...]
    lost_extents: tuple[int, ...]
    error: str | None
    created_at_ms: int


def locate(layout: Layout, offset: int) -> tuple[Extent, int]:
    """The extent a byte of the region lives in, and where in that extent it is.

    The offset lies inside the region; one outside is an IndexError, since nothing sensible can follow.
    """
    stripe, rest = divmod(offset, STRIPE_BYTES)
    which = bisect_right(layout.bands, stripe, key=_first_stripe) - 1
    if which < 0 or stripe >= layout.bands[which].first_stripe + layout.bands[which].stripes:
        raise IndexError(f"offset {offset} lies outside the region")
    band = layout.bands[which]
    turn, lane = divmod(stripe - band.first_stripe, len(band.extents))
    return band.extents[lane], turn * STRIPE_BYTES + rest


def stripes_for(size_bytes: int) -> int:
    """How many whole stripes hold this many bytes."""
    return -(-size_bytes // STRIPE_BYTES)


def _first_stripe(band: Band) -> int:
    return band.first_stripe
