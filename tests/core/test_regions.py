"""Regions: planned on what is lent, damaged by what dies, gone when everybody has let go."""

from collections.abc import Callable

import pytest

from tests.worlds import STRIPE, World, node
from weft.core.holding import target_extents, target_generation
from weft.model.attachment import Mode
from weft.model.commands import (
    AdmitBeat,
    ConfirmRegion,
    DeleteRegion,
    FailRegion,
    FinishRegion,
    GiveUpNode,
    LoseExtents,
    OpenAttachment,
    PlanRegion,
    RemoveNode,
    SealRegion,
)
from weft.model.errors import (
    CapacityExceeded,
    ClusterNotFound,
    RegionExists,
    RegionInUse,
    RegionNotFound,
    RegionNotReady,
)
from weft.model.ids import Incarnation, NodeId, RegionName
from weft.model.region import Region, RegionState

Build = Callable[..., World]
R = RegionName("r")
A, B = NodeId("a"), NodeId("b")


def region(world: World, name: RegionName = R) -> Region:
    region_id = world.state.region_ids.get(name)
    found = world.state.regions.get(region_id) if region_id is not None else None
    assert found is not None
    return found


def free_stripes(world: World, node_id: NodeId) -> int:
    row = world.state.nodes.get(node_id)
    assert row is not None
    return row.free_bytes // STRIPE


def held(world: World, node_id: NodeId) -> list[int]:
    return [one.extent.index for one in target_extents(world.state, node_id)]


def plan(world: World, stripes: int, name: str = "r", lenders: int | None = None) -> None:
    world.do(PlanRegion(name=RegionName(name), size_bytes=stripes * STRIPE, lenders_max=lenders))


def test_a_region_is_charged_to_its_lenders(lending: Build) -> None:
    world = lending(8, 8)
    plan(world, 6)
    assert region(world).state is RegionState.PLANNED
    assert (free_stripes(world, A), free_stripes(world, B)) == (5, 5)
    assert held(world, A) == [0]
    assert held(world, B) == [1]


def test_planning_changes_the_target_of_lenders_and_of_nobody_else(lending: Build) -> None:
    world = lending(8, 8)
    before = {name: target_generation(world.state, name) for name in (A, B)}
    plan(world, 1, lenders=1)
    assert target_generation(world.state, A) > before[A]
    assert target_generation(world.state, B) == before[B]


def test_regions_use_all_that_is_lent_and_not_a_stripe_more(lending: Build) -> None:
    world = lending(5, 3, 1)
    plan(world, 4, "first")
    plan(world, 5, "second")
    with pytest.raises(CapacityExceeded, match="weft node --lend") as refusal:
        plan(world, 1, "third")
    assert (refusal.value.wanted_bytes, refusal.value.free_bytes) == (STRIPE, 0)


def test_a_region_of_at_most_one_lender_has_to_fit_into_one(lending: Build) -> None:
    world = lending(5, 3)
    plan(world, 5, "fits", lenders=1)
    with pytest.raises(CapacityExceeded):
        plan(world, 4, "does-not", lenders=1)


@pytest.mark.parametrize("why", ["silent", "offline", "never beat"])
def test_a_node_that_may_be_gone_is_given_nothing(why: str) -> None:
    world = World.founded(node("a", 8))
    if why != "never beat":
        world.do(AdmitBeat(node_id=A, incarnation=Incarnation(1)))
    if why == "silent":
        world.silent = frozenset({A})
    if why == "offline":
        world.do(GiveUpNode(node_id=A, incarnation=Incarnation(1)))
    with pytest.raises(CapacityExceeded):
        plan(world, 1)


def test_a_name_is_taken_until_its_region_is_gone(lending: Build) -> None:
    world = lending(8)
    plan(world, 1)
    with pytest.raises(RegionExists):
        plan(world, 1)
    world.do(DeleteRegion(name=R))
    with pytest.raises(RegionExists, match="deleting"):
        plan(world, 1)
    world.do(FinishRegion(region_id=region(world).region_id, released=(A,)))
    plan(world, 1)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ClusterNotFound):
        World().do(SealRegion(name=R))
    with pytest.raises(RegionNotFound):
        World.founded().do(SealRegion(name=R))


def test_a_lender_that_starts_anew_damages_what_it_held(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    world.do(AdmitBeat(node_id=A, incarnation=Incarnation(2)))
    assert region(world).state is RegionState.DAMAGED
    assert region(world).lost_extents == (0,)
    assert held(world, A) == []
    assert held(world, B) == [1]
    assert free_stripes(world, A) == 8


def test_a_removed_lender_damages_what_it_held_and_planning_leaves_it_out(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    world.do(RemoveNode(node_id=B))
    assert region(world).lost_extents == (1,)


def test_a_plan_whose_lender_starts_anew_fails_and_says_why(lending: Build) -> None:
    world = lending(8, 8)
    plan(world, 6)
    world.do(AdmitBeat(node_id=A, incarnation=Incarnation(2)))
    assert region(world).state is RegionState.FAILED
    assert "node a started anew" in (region(world).error or "")
    assert held(world, B) == []


def test_a_failed_plan_is_deleted_like_any_other(lending: Build) -> None:
    world = lending(8)
    plan(world, 6)
    world.do(FailRegion(region_id=region(world).region_id, error="node a: no memory"))
    with pytest.raises(RegionNotReady, match="no memory"):
        world.do(SealRegion(name=R))
    world.do(DeleteRegion(name=R))
    world.do(FinishRegion(region_id=region(world).region_id, released=(A,)))
    assert free_stripes(world, A) == 8


def test_a_living_lender_can_lose_an_extent(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    loss = LoseExtents(
        region_id=region(world).region_id, node_id=A, incarnation=Incarnation(1), indices=(0, 1), error="bad memory"
    )
    world.do(loss)
    assert region(world).lost_extents == (0,)
    assert free_stripes(world, A) == 8
    assert world.do(loss) == ()


def test_the_room_of_a_damaged_region_is_given_back_once(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    region_id = region(world).region_id
    world.do(LoseExtents(region_id=region_id, node_id=A, incarnation=Incarnation(1), indices=(0,), error="x"))
    world.do(DeleteRegion(name=R))
    world.do(FinishRegion(region_id=region_id, released=(A, B)))
    assert (free_stripes(world, A), free_stripes(world, B)) == (8, 8)


def test_a_region_is_gone_when_every_living_lender_let_go(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    region_id = region(world).region_id
    world.do(DeleteRegion(name=R))
    assert world.do(FinishRegion(region_id=region_id, released=(A,))) == ()
    world.silent = frozenset({B})
    world.do(FinishRegion(region_id=region_id, released=(A,)))
    assert len(world.state.regions) == 0


def test_a_region_without_a_living_lender_is_gone_at_once(with_region: Build) -> None:
    world = with_region(6, 8)
    world.silent = frozenset({A})
    world.do(DeleteRegion(name=R))
    assert len(world.state.regions) == 0
    assert free_stripes(world, A) == 8


def test_a_region_in_use_is_deleted_only_by_force(with_region: Build) -> None:
    world = with_region(6, 8)
    world.do(OpenAttachment(region=R, mode=Mode.EXCLUSIVE, holder="me"))
    with pytest.raises(RegionInUse):
        world.do(DeleteRegion(name=R))
    world.do(DeleteRegion(name=R, force=True))
    assert len(world.state.attachments) == 0
    assert world.do(DeleteRegion(name=R)) == ()


def test_late_reports_are_no_news(with_region: Build) -> None:
    world = with_region(6, 8)
    region_id = region(world).region_id
    assert world.do(ConfirmRegion(region_id=region_id)) == ()
    assert world.do(FailRegion(region_id=region_id, error="late")) == ()
    assert world.do(FinishRegion(region_id=region_id, released=(A,))) == ()
