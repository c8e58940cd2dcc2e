"""The ring: the pinned vectors, the distinct-node rule, and what a join or a leave may move."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.ring import Member, Ring, key_point, member_points, point_count
from weft.model.ids import NodeId
from weft.model.policy import RING_POINTS_MAX, RING_POINTS_PER_UNIT, RING_UNIT_GB

KEYS = ["object-123", "k0", "k1", "abc123def456"]


def member(node_id: str, zone: str = "a", weight: int = 1) -> Member:
    return Member(NodeId(node_id), zone, RING_POINTS_PER_UNIT * weight)


def spread(zones: str) -> list[Member]:
    """n0, n1, n2 … in these zones."""
    return [member(f"n{index}", zone) for index, zone in enumerate(zones)]


def obvious(members: list[Member], key: str, count: int, aside: frozenset[NodeId] = frozenset()) -> list[NodeId]:
    """The rule as it is told: every point sorted, every node met listed, zones first, then the rest."""
    points = sorted((point, one.node_id) for one in members for point in member_points(one))
    start = key_point(key)
    met: list[Member] = []
    by_id = {one.node_id: one for one in members}
    for _, node_id in [pair for pair in points if pair[0] >= start] + [pair for pair in points if pair[0] < start]:
        if by_id[node_id] not in met and node_id not in aside:
            met.append(by_id[node_id])
    leading = [one for index, one in enumerate(met) if one.zone not in {before.zone for before in met[:index]}]
    others = [one for one in met if one not in leading]
    return [one.node_id for one in (leading + others)[:count]]


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("n0:0", 0xF367FBE5F46438F6),
        ("n1:0", 0x9DA078E7CFDE61CD),
        ("gpu-a:63", 0xFDFF3E88DA69EFC0),
        ("object-123", 0xCDD8A1F4E8372221),
        ("abc123def456", 0xE861B2EAB679927C),
    ],
)
def test_points_are_pinned(text: str, point: int) -> None:
    assert key_point(text) == point
    node_id, colon, index = text.partition(":")
    if colon:
        assert point in member_points(member(node_id))
        assert int(index) < RING_POINTS_PER_UNIT


@pytest.mark.parametrize(
    ("members", "placed"),
    [
        (spread("abcabc"), ["n5 n0 n4", "n3 n2 n4", "n5 n0 n1", "n0 n1 n2"]),
        (spread("ababab"), ["n5 n0 n4", "n3 n2 n5", "n5 n0 n3", "n0 n1 n3"]),
        (spread("aaaaa"), ["n0 n4 n1", "n3 n2 n4", "n0 n3 n1", "n0 n1 n3"]),
        (
            [member("n0", "a", 1), member("n1", "b", 4), member("n2", "c", 2), member("n3", "a", 8)],
            ["n3 n2 n1", "n3 n1 n2", "n0 n1 n2", "n3 n1 n2"],
        ),
    ],
    ids=["zones enough", "two zones", "one zone", "weighted"],
)
def test_the_pinned_placements(members: list[Member], placed: list[str]) -> None:
    ring = Ring.of(members)
    assert [" ".join(ring.place(key, 3)) for key in KEYS] == placed


def test_where_zones_are_enough_the_answer_is_the_original_system_s() -> None:
    members = [member("n1", "a"), member("n2", "b"), member("n3", "c"), member("n4", "a"), member("n5", "b")]
    assert Ring.of(members).place("object-123", 3) == ["n5", "n4", "n3"]


def test_shares_follow_weights() -> None:
    ring = Ring.of([member("n0", "a", 1), member("n1", "b", 4), member("n2", "c", 2), member("n3", "a", 8)])
    shares = Counter(ring.place(f"k{index}", 1)[0] for index in range(6000))
    assert shares == {"n3": 3212, "n1": 1618, "n2": 838, "n0": 332}


@pytest.mark.parametrize("zones", ["aaaaa", "ababab", "a"], ids=["one zone", "two zones", "one node"])
def test_no_node_is_named_twice_where_zones_are_scarce(zones: str) -> None:
    ring = Ring.of(spread(zones))
    for index in range(300):
        placed = ring.place(f"k{index}", 3)
        assert len(set(placed)) == len(placed) == min(3, len(zones))


def test_the_answer_does_not_depend_on_who_registered_first() -> None:
    expected = Ring.of(spread("abca"))
    for order in permutations(spread("abca")):
        ring = Ring()
        for one in order:
            ring = ring.with_member(one)
        assert [ring.place(key, 3) for key in KEYS] == [expected.place(key, 3) for key in KEYS]


def test_adding_one_node_to_ten_moves_about_an_eleventh_of_the_keys() -> None:
    before = Ring.of(spread("abcabcabca"))
    after = before.with_member(member("n10", "b"))
    keys = [f"k{index}" for index in range(4000)]
    moved = sum(1 for key in keys if before.place(key, 1) != after.place(key, 1))
    assert 0.05 < moved / len(keys) < 0.15


@pytest.mark.parametrize(
    ("capacity_gb", "unit_gb", "points"),
    [
        (0, 1, 64),
        (1, 1, 64),
        (2, 1, 128),
        (100, 1, 6_400),
        (128, 1, RING_POINTS_MAX),
        (100_000, 1, RING_POINTS_MAX),
        (100, 16, 64 * 6),
        (24, 16, 64 * 2),
        (23, 16, 64),
        (40, 16, 64 * 3),
    ],
)
def test_a_capacity_becomes_points_by_itself_alone(capacity_gb: int, unit_gb: int, points: int) -> None:
    assert point_count(capacity_gb, unit_gb) == points


def test_a_hundred_nodes_of_a_hundred_terabytes_have_a_bounded_ring() -> None:
    points = [point_count(100 * 1_024, RING_UNIT_GB) for _ in range(100)]
    assert points == [RING_POINTS_MAX] * 100
    assert sum(points) < 2**20, "64 times the capacity of each, as the original had it, would be 655 million"


@pytest.mark.parametrize(("count", "placed"), [(0, 0), (1, 1), (3, 3), (99, 3)])
def test_there_are_as_many_replicas_as_are_wanted_and_nodes_can_hold(count: int, placed: int) -> None:
    assert len(Ring.of(spread("abc")).place("k", count)) == placed


def test_an_empty_ring_places_nothing() -> None:
    assert Ring().place("k", 3) == []
    assert Ring.of(spread("a")).without(NodeId("n0")).place("k", 3) == []


def test_text_that_is_no_utf_8_has_a_place_too() -> None:
    assert Ring.of(spread("abc")).place("\udc80", 1) != []


members_of_a_cluster = st.lists(
    st.builds(
        member,
        st.integers(0, 30).map("n{}".format),
        st.sampled_from("abcd"),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one.node_id,
)


@settings(max_examples=60, deadline=None)
@given(members=members_of_a_cluster, key=st.text(max_size=20), count=st.integers(0, 6), data=st.data())
def test_the_fast_walk_agrees_with_the_obvious_one(
    members: list[Member], key: str, count: int, data: st.DataObject
) -> None:
    aside = frozenset(data.draw(st.lists(st.sampled_from([one.node_id for one in members]), max_size=4)))
    assert Ring.of(members).place(key, count, aside) == obvious(members, key, count, aside)


@settings(max_examples=60, deadline=None)
@given(members=members_of_a_cluster, key=st.text(max_size=20), count=st.integers(1, 6))
def test_a_placement_is_distinct_and_spreads_over_zones_before_it_repeats_one(
    members: list[Member], key: str, count: int
) -> None:
    placed = Ring.of(members).place(key, count)
    zones = {one.node_id: one.zone for one in members}
    assert len(set(placed)) == len(placed) == min(count, len(members))
    assert len({zones[node_id] for node_id in placed}) == min(count, len(set(zones.values())))


@settings(max_examples=60, deadline=None)
@given(members=members_of_a_cluster, joining=st.builds(member, st.just("newcomer"), st.sampled_from("abcd")))
def test_a_join_or_a_leave_never_moves_a_key_between_two_other_nodes(members: list[Member], joining: Member) -> None:
    before = Ring.of(members)
    after = before.with_member(joining)
    for index in range(50):
        (old,), (new,) = before.place(f"k{index}", 1), after.place(f"k{index}", 1)
        assert new in (old, joining.node_id)
        assert after.without(joining.node_id).place(f"k{index}", 1) == [old]


@settings(max_examples=60, deadline=None)
@given(members=members_of_a_cluster, data=st.data())
def test_a_node_that_is_set_aside_is_passed_over_as_if_it_had_left(members: list[Member], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(members)).node_id
    ring = Ring.of(members)
    for index in range(20):
        assert ring.place(f"k{index}", 3, {gone}) == ring.without(gone).place(f"k{index}", 3)


@settings(max_examples=40, deadline=None)
@given(members=members_of_a_cluster, data=st.data())
def test_a_ring_that_followed_every_change_is_the_ring_that_is_built_anew(
    members: list[Member], data: st.DataObject
) -> None:
    ring, held = Ring(), {}
    for _ in range(data.draw(st.integers(1, 12))):
        one = data.draw(st.sampled_from(members))
        if data.draw(st.booleans()):
            one = one._replace(zone=data.draw(st.sampled_from("abcd")))
            ring, held[one.node_id] = ring.with_member(one), one
        else:
            ring = ring.without(one.node_id)
            held.pop(one.node_id, None)
    if data.draw(st.booleans()):
        gone = dict.fromkeys(list(held)[:2])
        joining = {one.node_id: one for one in members if one.node_id not in gone}
        ring = ring.changed({**gone, **joining})
        held = {node_id: one for node_id, one in held.items() if node_id not in gone} | joining
    fresh = Ring.of(held.values())
    assert ring.members() == fresh.members()
    assert [ring.place(f"k{index}", 4) for index in range(20)] == [fresh.place(f"k{index}", 4) for index in range(20)]
