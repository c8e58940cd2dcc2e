"""The healing plan: what is short is copied, what is too much is let go of, and when it is done nothing is planned."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.healing import (
    CopyReplica,
    HealingPlan,
    Health,
    RepairBudget,
    StoreNode,
    counted,
    health,
    is_at_rest,
    plan,
    targets,
)
from weft.core.ring import Member, Ring
from weft.model.ids import Generation, NodeId
from weft.model.object import ObjectHash, StoredObject

G = Generation(1)
ROOM = 1_000_000
KEEPER = StoreNode(zone="z", free_bytes=ROOM, takes=True, gives=True)


def an_object(holders: str, *, wanted: int = 3, number: int = 0, size_bytes: int = 10) -> StoredObject:
    """An object held by the nodes with these letters."""
    return StoredObject(
        object_hash=ObjectHash(f"{number:064x}"),
        size_bytes=size_bytes,
        replicas_wanted=wanted,
        replicas=tuple(NodeId(letter) for letter in sorted(holders)),
        registered_at_ms=0,
    )


def nodes_of(letters: str, **changed: StoreNode) -> dict[NodeId, StoreNode]:
    """Nodes that can all be given copies, but for those that are named."""
    return {NodeId(letter): changed.get(letter, KEEPER) for letter in letters}


def ring_of(nodes: Mapping[NodeId, StoreNode]) -> Ring:
    return Ring.of(Member(node_id, node.zone) for node_id, node in nodes.items())


def made(found: StoredObject, nodes: Mapping[NodeId, StoreNode], budget: RepairBudget | None = None) -> HealingPlan:
    return plan([found], nodes, ring_of(nodes), budget or RepairBudget(), G)


def gone(node_id: str, nodes: Mapping[NodeId, StoreNode]) -> dict[NodeId, StoreNode]:
    return {other: node for other, node in nodes.items() if other != node_id}


DRAINING = StoreNode(zone="z", free_bytes=ROOM, counts=False, gives=True)
SUSPECT = StoreNode(zone="z", free_bytes=ROOM)
FULL = StoreNode(zone="z", free_bytes=0, takes=True, gives=True)


@pytest.mark.parametrize(
    ("holders", "wanted", "nodes", "copies", "state"),
    [
        ("abc", 3, nodes_of("abcd"), 0, Health.HEALTHY),
        ("ab", 3, nodes_of("abcd"), 1, Health.UNDER_REPLICATED),
        ("a", 3, nodes_of("abcd"), 2, Health.UNDER_REPLICATED),
        # Fewer than wanted, and no node that could have one more: as healthy as it can be.
        ("ab", 3, nodes_of("ab"), 0, Health.HEALTHY),
        ("ab", 3, nodes_of("abc", c=FULL), 0, Health.HEALTHY),
        ("ab", 3, nodes_of("abc", c=SUSPECT), 0, Health.HEALTHY),
        # Nobody holds it, or nobody who is there: there is nothing to copy from.
        ("", 3, nodes_of("abcd"), 0, Health.ABSENT),
        ("xy", 3, nodes_of("abcd"), 0, Health.ABSENT),
        # A draining node's copy does not count, and can be copied from.
        ("abc", 3, nodes_of("abcd", a=DRAINING), 1, Health.UNDER_REPLICATED),
        ("a", 1, nodes_of("ab", a=DRAINING), 1, Health.UNDER_REPLICATED),
        # A suspect's copy counts, and is not copied from.
        ("abc", 3, nodes_of("abcd", a=SUSPECT), 0, Health.HEALTHY),
        ("a", 3, nodes_of("abcd", a=SUSPECT), 0, Health.UNDER_REPLICATED),
        ("ab", 3, nodes_of("abcd", a=SUSPECT), 1, Health.UNDER_REPLICATED),
    ],
)
def test_what_is_planned_for_an_object(
    holders: str, wanted: int, nodes: Mapping[NodeId, StoreNode], copies: int, state: Health
) -> None:
    found = an_object(holders, wanted=wanted)
    assert len(made(found, nodes).copies) == copies
    assert health(found, nodes) is state


def test_auto_re_replication_targets_exclude_holders() -> None:
    nodes = nodes_of("abcdef")
    for copy in made(an_object("ab", wanted=5), nodes).copies:
        assert copy.target not in ("a", "b")
        assert set(copy.sources) == {"a", "b"}


def test_a_target_is_where_the_ring_would_put_the_object() -> None:
    nodes = nodes_of("abcdef")
    found = an_object("abcdef"[:1], wanted=3)
    placed = ring_of(nodes).place(found.object_hash, 6)
    chosen = [copy.target for copy in made(found, nodes).copies]
    assert chosen == [node_id for node_id in placed if node_id != "a"][:2]


def test_a_copy_goes_to_a_zone_that_has_none_before_the_rings_first_choice() -> None:
    zones = {"a": "x", "b": "x", "c": "x", "d": "y"}
    nodes = {NodeId(letter): msgspec.structs.replace(KEEPER, zone=zone) for letter, zone in zones.items()}
    for number in range(50):
        (copy,) = made(an_object("a", wanted=2, number=number), nodes).copies
        assert copy.target == "d"


def test_the_most_urgent_comes_first_and_the_budget_ends_the_plan() -> None:
    nodes = nodes_of("abc")
    urgent = an_object("a", wanted=2, number=1)
    budget = RepairBudget(copies_per_node=1)
    many = [urgent, *(an_object("a", wanted=2, number=number) for number in range(2, 50))]
    copies = plan(many, nodes, ring_of(nodes), budget, G).copies
    assert copies[0].object_hash == urgent.object_hash
    assert sorted(copy.target for copy in copies) == ["b", "c"]


def test_reads_are_spread_over_the_holders_and_bounded() -> None:
    nodes = nodes_of("abcdef")
    budget = RepairBudget(copies_per_node=10, reads_per_node=2)
    many = [an_object("ab", wanted=3, number=number) for number in range(20)]
    first = [copy.sources[0] for copy in plan(many, nodes, ring_of(nodes), budget, G).copies]
    assert sorted(first) == ["a", "a", "b", "b"]


def test_an_object_waits_for_a_busy_target_rather_than_go_elsewhere() -> None:
    nodes = nodes_of("abcdef")
    budget = RepairBudget(copies_per_node=1)
    many = [an_object("a", wanted=2, number=number) for number in range(60)]
    for copy in plan(many, nodes, ring_of(nodes), budget, G).copies:
        (alone,) = made(next(one for one in many if one.object_hash == copy.object_hash), nodes).copies
        assert alone.target == copy.target


def test_no_node_is_promised_more_than_it_has_room_for() -> None:
    room = msgspec.structs.replace(KEEPER, free_bytes=25)
    nodes = nodes_of("abc", b=room, c=room)
    many = [an_object("a", wanted=3, number=number) for number in range(20)]
    copies = plan(many, nodes, ring_of(nodes), RepairBudget(copies_per_node=100, reads_per_node=100), G).copies
    assert [sum(copy.size_bytes for copy in copies if copy.target == name) for name in "bc"] == [20, 20]


def test_an_object_nobody_could_verify_is_never_planned_for() -> None:
    found = msgspec.structs.replace(an_object("a"), object_hash=ObjectHash("abc123def456..."))
    assert made(found, nodes_of("abcd")).is_empty


@pytest.mark.parametrize(
    ("holders", "nodes", "drops"),
    [
        ("abcd", nodes_of("abcd"), 1),
        ("abcde", nodes_of("abcde"), 2),
        # One of the copies is not certain, or its holder is away: nobody lets go on the strength of it.
        ("abcd", nodes_of("abcd", d=SUSPECT), 0),
        ("abcd", nodes_of("abc"), 0),
        ("abcde", nodes_of("abcd"), 0),
    ],
)
def test_copies_beyond_the_wanted_are_let_go_of_only_when_all_are_certain(
    holders: str, nodes: Mapping[NodeId, StoreNode], drops: int
) -> None:
    assert len(made(an_object(holders), nodes).drops) == drops


def test_what_is_let_go_of_is_what_the_ring_likes_least_and_zones_stay_spread() -> None:
    zones = dict(zip("abcd", "xxyz", strict=True))
    nodes = {NodeId(letter): msgspec.structs.replace(KEEPER, zone=zone) for letter, zone in zones.items()}
    for number in range(30):
        (drop,) = made(an_object("abcd", number=number), nodes).drops
        assert drop.node_id in ("a", "b")


def test_a_put_goes_to_nodes_that_have_it_or_have_room_and_to_none_that_refused() -> None:
    nodes = nodes_of("abcdef", b=FULL, c=FULL, d=DRAINING)
    found = an_object("b", wanted=6)
    assert set(targets(found, nodes, ring_of(nodes))) == {"a", "b", "e", "f"}
    assert set(targets(found, nodes, ring_of(nodes), [NodeId("a")])) == {"b", "e", "f"}


def test_the_same_books_give_the_same_plan() -> None:
    nodes = nodes_of("abcdef")
    many = [an_object("ab", number=number) for number in range(40)]
    assert plan(many, nodes, ring_of(nodes), RepairBudget(), G) == plan(many, nodes, ring_of(nodes), RepairBudget(), G)


letters = st.sampled_from("abcdefgh")


@st.composite
def clusters(draw: st.DrawFn) -> dict[NodeId, StoreNode]:
    """Nodes of every kind in a few zones, some of them nearly full."""
    made: dict[NodeId, StoreNode] = {}
    for letter in draw(st.sets(letters, min_size=1)):
        kind = draw(st.sampled_from([KEEPER, KEEPER, KEEPER, DRAINING, SUSPECT]))
        made[NodeId(letter)] = msgspec.structs.replace(
            kind, zone=draw(st.sampled_from("xyz")), free_bytes=draw(st.sampled_from([0, 15, ROOM, ROOM]))
        )
    return made


@st.composite
def books(draw: st.DrawFn) -> list[StoredObject]:
    """Objects with any number of copies, on nodes that may not be there."""
    return [
        an_object("".join(draw(st.sets(letters))), wanted=draw(st.integers(1, 5)), number=number)
        for number in range(draw(st.integers(1, 12)))
    ]


def carried_out(
    made: HealingPlan, objects: list[StoredObject], nodes: dict[NodeId, StoreNode]
) -> tuple[list[StoredObject], dict[NodeId, StoreNode]]:
    """The books and the nodes after everybody did what the plan says."""
    by_hash = {found.object_hash: found for found in objects}
    nodes = dict(nodes)
    for copy in made.copies:
        found = by_hash[copy.object_hash]
        assert copy.target not in found.replicas, "never two copies on one node"
        assert set(copy.sources) <= set(found.replicas), "only a holder is a source"
        node = nodes[copy.target]
        assert node.free_bytes >= copy.size_bytes, "only where there is room"
        nodes[copy.target] = msgspec.structs.replace(node, free_bytes=node.free_bytes - copy.size_bytes)
        replicas = tuple(sorted((*found.replicas, copy.target)))
        by_hash[copy.object_hash] = msgspec.structs.replace(found, replicas=replicas)
    for drop in made.drops:
        found = by_hash[drop.object_hash]
        node = nodes[drop.node_id]
        nodes[drop.node_id] = msgspec.structs.replace(node, free_bytes=node.free_bytes + found.size_bytes)
        replicas = tuple(node_id for node_id in found.replicas if node_id != drop.node_id)
        by_hash[drop.object_hash] = msgspec.structs.replace(found, replicas=replicas)
    return list(by_hash.values()), nodes


@given(books(), clusters(), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_carrying_plans_out_ends_with_nothing_to_plan(
    objects: list[StoredObject], nodes: dict[NodeId, StoreNode], copies_per_node: int, reads_per_node: int
) -> None:
    budget = RepairBudget(copies_per_node=copies_per_node, reads_per_node=reads_per_node)
    ring = ring_of(nodes)
    before = {found.object_hash: len(counted(found, nodes)) for found in objects}
    for _ in range(200):
        made = plan(objects, nodes, ring, budget, G)
        if made.is_empty:
            break
        objects, nodes = carried_out(made, objects, nodes)
    else:
        raise AssertionError("healing does not come to an end")
    assert plan(objects, nodes, ring, budget, G).is_empty
    for found in objects:
        there = len(counted(found, nodes))
        assert there >= min(before[found.object_hash], found.replicas_wanted), "nothing is lost by healing"
        can_be_read = any(nodes[node_id].gives for node_id in found.replicas if node_id in nodes)
        if can_be_read:
            assert health(found, nodes) is Health.HEALTHY


@given(books(), clusters())
@settings(max_examples=100, deadline=None)
def test_an_absent_object_is_never_planned_for(objects: list[StoredObject], nodes: dict[NodeId, StoreNode]) -> None:
    absent = {found.object_hash for found in objects if health(found, nodes) is Health.ABSENT}
    made = plan(objects, nodes, ring_of(nodes), RepairBudget(), G)
    assert absent.isdisjoint(copy.object_hash for copy in made.copies)
    assert absent.isdisjoint(drop.object_hash for drop in made.drops)


@given(books(), clusters())
@settings(max_examples=100, deadline=None)
def test_an_object_at_rest_is_in_no_plan(objects: list[StoredObject], nodes: dict[NodeId, StoreNode]) -> None:
    resting = [found for found in objects if is_at_rest(found, nodes)]
    assert plan(resting, nodes, ring_of(nodes), RepairBudget(), G).is_empty


def test_a_node_is_killed_and_the_cluster_is_back_at_its_factor() -> None:
    nodes = nodes_of("abcde")
    objects = [an_object("abc", number=number) for number in range(30)]
    left = gone("a", nodes)
    assert all(health(found, left) is Health.UNDER_REPLICATED for found in objects)
    ring = ring_of(left)
    rounds = 0
    while not (made := plan(objects, left, ring, RepairBudget(), G)).is_empty:
        assert all(isinstance(copy, CopyReplica) for copy in made.copies)
        objects, left = carried_out(made, objects, left)
        rounds += 1
    assert rounds < 40
    assert all(len(counted(found, left)) == 3 for found in objects)


def test_a_deleted_object_is_let_go_of_by_everybody_who_can_be_heard() -> None:
    nodes = nodes_of("abcd", b=DRAINING, c=SUSPECT)
    found = msgspec.structs.replace(an_object("abcx"), deleting=True)
    planned = made(found, nodes)
    assert planned.copies == ()
    assert [(drop.node_id, drop.object_hash) for drop in planned.drops] == [
        (NodeId("a"), found.object_hash),
        (NodeId("b"), found.object_hash),
    ]
    assert health(found, nodes) is Health.DELETING
    assert not is_at_rest(found, nodes)


def test_deleted_objects_are_let_go_of_also_when_nobody_has_budget_for_copies() -> None:
    nodes = nodes_of("ab")
    short = [an_object("a", wanted=2, number=number) for number in range(4)]
    deleted = msgspec.structs.replace(an_object("ab", number=9), deleting=True)
    planned = plan([*short, deleted], nodes, ring_of(nodes), RepairBudget(copies_per_node=0, drops_per_node=1), G)
    assert planned.copies == ()
    assert [drop.node_id for drop in planned.drops] == ["a", "b"]
