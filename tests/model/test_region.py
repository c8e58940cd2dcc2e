"""Where a byte lives follows by division."""

import pytest

from weft.model.ids import Generation, Incarnation, NodeId
from weft.model.policy import STRIPE_BYTES
from weft.model.region import Band, Extent, Layout, Replica, locate, stripes_for


def extent(index: int, stripes: int, node_id: str) -> Extent:
    replica = Replica(node_id=NodeId(node_id), incarnation=Incarnation(1))
    return Extent(index=index, stripes=stripes, replicas=(replica,))


LAYOUT = Layout(
    generation=Generation(1),
    bands=(
        Band(first_stripe=0, stripes=6, extents=(extent(0, 3, "a"), extent(1, 3, "b"))),
        Band(first_stripe=6, stripes=2, extents=(extent(2, 2, "a"),)),
    ),
)


@pytest.mark.parametrize(
    ("stripe", "index", "turn"),
    [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1), (4, 0, 2), (5, 1, 2), (6, 2, 0), (7, 2, 1)],
)
def test_stripes_are_dealt_in_turn_within_their_band(stripe: int, index: int, turn: int) -> None:
    found, offset = locate(LAYOUT, stripe * STRIPE_BYTES + 5)
    assert (found.index, offset) == (index, turn * STRIPE_BYTES + 5)


@pytest.mark.parametrize("offset", [8 * STRIPE_BYTES, -1])
def test_an_offset_outside_the_region_lives_nowhere(offset: int) -> None:
    with pytest.raises(IndexError):
        locate(LAYOUT, offset)


def test_lenders_are_listed_once() -> None:
    assert [replica.node_id for replica in LAYOUT.lenders()] == ["a", "b"]
    assert [found.index for found in LAYOUT.extents_of(NodeId("a"))] == [0, 2]


@pytest.mark.parametrize(("size_bytes", "stripes"), [(1, 1), (STRIPE_BYTES, 1), (STRIPE_BYTES + 1, 2)])
def test_a_size_is_rounded_up_to_whole_stripes(size_bytes: int, stripes: int) -> None:
    assert stripes_for(size_bytes) == stripes
