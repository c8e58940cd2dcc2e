"""Layouts: nothing overlaps, nothing lent is left over, and shares are what dealing in turn gives."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.layout import Room, choose_lenders, plan_layout
from weft.model.ids import Generation, Incarnation, NodeId
from weft.model.policy import STRIPE_BYTES
from weft.model.region import Layout, Replica, locate


def rooms(*stripes: int) -> list[Room]:
    return [
        Room(replica=Replica(node_id=NodeId(f"n{index}"), incarnation=Incarnation(1)), stripes=count)
        for index, count in enumerate(stripes)
    ]


def shape(layout: Layout) -> list[list[int]]:
    return [[extent.stripes for extent in band.extents] for band in layout.bands]


@pytest.mark.parametrize(
    ("lent", "stripes", "bands"),
    [
        ((8,), 3, [[3]]),
        ((8, 8), 3, [[2, 1]]),
        ((8, 8, 8), 1, [[1]]),
        ((5, 3, 3), 11, [[3, 3, 3], [2]]),
        ((5, 3, 3), 9, [[3, 3, 3]]),
        ((4, 3, 1), 8, [[1, 1, 1], [2, 2], [1]]),
        ((4, 3, 1), 5, [[1, 1, 1], [1, 1]]),
        ((4, 0, 1), 5, [[1, 1], [3]]),
    ],
)
def test_bands_go_over_all_who_still_have_room(lent: tuple[int, ...], stripes: int, bands: list[list[int]]) -> None:
    assert shape(plan_layout(choose_lenders(rooms(*lent), 64), stripes, Generation(1))) == bands


def test_the_roomiest_are_chosen_and_ties_go_by_name() -> None:
    chosen = choose_lenders(rooms(3, 5, 0, 5), 2)
    assert [room.replica.node_id for room in chosen] == ["n1", "n3"]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.data())
def test_every_stripe_lives_in_one_place_and_no_lender_gives_more_than_it_has(
    lent: list[int], data: st.DataObject
) -> None:
    chosen = choose_lenders(rooms(*lent), 64)
    if not sum(lent):
        assert chosen == []
        return
    stripes = data.draw(st.integers(1, sum(lent)))
    layout = plan_layout(chosen, stripes, Generation(1))
    places: Counter[tuple[int, int]] = Counter()
    for stripe in range(stripes):
        extent, offset = locate(layout, stripe * STRIPE_BYTES)
        assert offset + STRIPE_BYTES <= extent.size_bytes
        places[extent.index, offset] += 1
    assert set(places.values()) == {1}
    given_by: Counter[NodeId] = Counter()
    for extent in layout.extents():
        given_by[extent.home.node_id] += extent.stripes
    assert sum(given_by.values()) == stripes
    assert all(given_by[room.replica.node_id] <= room.stripes for room in chosen)
    assert [extent.index for extent in layout.extents()] == list(range(len(layout.extents())))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_everything_that_is_lent_can_be_used(lent: list[int]) -> None:
    layout = plan_layout(choose_lenders(rooms(*lent), 64), sum(lent), Generation(1))
    used: Counter[NodeId] = Counter()
    for extent in layout.extents():
        used[extent.home.node_id] += extent.stripes
    assert sorted(used.values()) == sorted(lent)
