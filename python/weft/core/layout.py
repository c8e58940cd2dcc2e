"""Layout planning: how a region is spread over unequal lenders so that all that is lent can be used.

The first band goes over every chosen lender up to the smallest room, the next over those with room left, and so on.
With rooms of 5, 3 and 3 stripes and a region of 11 there are two bands: 9 stripes over three, then 2 over the first.
The roomiest come first in every band, so that a remainder falls where there is most.
"""

from collections.abc import Sequence
from typing import NamedTuple

from weft.model.ids import Generation
from weft.model.region import Band, Extent, Layout, Replica


class Room(NamedTuple):
    """What one lender can take."""

    replica: Replica
    stripes: int


def choose_lenders(rooms: Sequence[Room], lenders_max: int) -> list[Room]:
    """The lenders with the most room, in that order, ties by id; those without any are none."""
    roomy = sorted((room for room in rooms if room.stripes > 0), key=lambda room: (-room.stripes, room.replica.node_id))
    return roomy[:lenders_max]


def plan_layout(chosen: Sequence[Room], stripes: int, generation: Generation) -> Layout:
    """A layout of this many stripes over lenders in order of falling room. They have room for it, together."""
    assert sum(room.stripes for room in chosen) >= stripes > 0, "a plan is made for what fits"
    bands: list[Band] = []
    first_stripe, index, used = 0, 0, 0
    active = list(chosen)
    while first_stripe < stripes:
        height = active[-1].stripes - used
        left = stripes - first_stripe
        size = min(left, height * len(active))
        extents = tuple(
            Extent(index=index + lane, stripes=_share(size, lane, len(active)), replicas=(room.replica,))
            for lane, room in enumerate(active[:size])
        )
        bands.append(Band(first_stripe=first_stripe, stripes=size, extents=extents))
        index += len(extents)
        first_stripe += size
        used += height
        active = [room for room in active if room.stripes > used]
    return Layout(generation=generation, bands=tuple(bands))


def _share(stripes: int, lane: int, lanes: int) -> int:
    """How many of a band's stripes fall to one lane when they are dealt in turn."""
    return -(-(stripes - lane) // lanes)
