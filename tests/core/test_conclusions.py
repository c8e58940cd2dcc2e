"""What follows from beats: nothing until everybody has spoken, and nothing twice."""

from collections.abc import Callable

import pytest

from tests.worlds import STRIPE, World
from weft.core.beat import Report, conclude
from weft.model.commands import Command, ConfirmRegion, DeleteRegion, FailRegion, FinishRegion, LoseExtents, PlanRegion
from weft.model.ids import Generation, Incarnation, NodeId, RegionId, RegionName
from weft.model.policy import reserve_ms_max
from weft.model.region import Region

Build = Callable[..., World]
A, B = NodeId("a"), NodeId("b")
R = RegionName("r")
LATEST = Generation(2**40)


def region(world: World) -> Region:
    (found,) = world.state.regions.values()
    return found


def ready(region_id: RegionId, *indices: int, life: int = 1, generation: Generation = LATEST) -> Report:
    return Report(
        incarnation=Incarnation(life),
        generation=generation,
        ready=frozenset((region_id, index) for index in indices),
    )


def failed(region_id: RegionId, index: int, life: int = 1) -> Report:
    return Report(incarnation=Incarnation(life), generation=LATEST, failed={(region_id, index): "no memory"})


def follows(world: World, **reports: Report) -> Command | None:
    heard = {NodeId(name): report for name, report in reports.items()}
    return conclude(world.state, region(world), heard, world.silent, world.now_ms - region(world).created_at_ms)


@pytest.fixture
def planned(lending: Build) -> World:
    """Region r over a (extent 0) and b (extent 1), planned."""
    world = lending(8, 8)
    world.do(PlanRegion(name=R, size_bytes=6 * STRIPE))
    return world


def test_a_plan_waits_for_every_extent(planned: World) -> None:
    region_id = region(planned).region_id
    assert follows(planned) is None
    assert follows(planned, a=ready(region_id, 0)) is None
    assert follows(planned, a=ready(region_id, 0), b=ready(region_id)) is None
    both = follows(planned, a=ready(region_id, 0), b=ready(region_id, 1))
    assert both == ConfirmRegion(region_id=region_id)


def test_a_report_of_another_life_counts_for_nothing(planned: World) -> None:
    region_id = region(planned).region_id
    assert follows(planned, a=ready(region_id, 0), b=ready(region_id, 1, life=2)) is None


def test_a_lender_that_cannot_fails_the_plan_with_its_reason(planned: World) -> None:
    region_id = region(planned).region_id
    outcome = follows(planned, a=ready(region_id, 0), b=failed(region_id, 1))
    assert outcome == FailRegion(region_id=region_id, error="node b: no memory")


def test_a_plan_that_is_late_fails_and_names_who_it_waited_for(planned: World) -> None:
    region_id = region(planned).region_id
    planned.now_ms += reserve_ms_max(6 * STRIPE) + 1
    outcome = follows(planned, a=ready(region_id, 0))
    assert outcome == FailRegion(region_id=region_id, error="no memory from b in time")


def test_once_concluded_nothing_more_follows(planned: World) -> None:
    region_id = region(planned).region_id
    reports = {"a": ready(region_id, 0), "b": ready(region_id, 1)}
    command = follows(planned, **reports)
    assert command is not None
    planned.do(command)
    assert follows(planned, **reports) is None


def test_a_lender_s_loss_follows_from_its_own_report(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    region_id = region(world).region_id
    loss = follows(world, b=failed(region_id, 1))
    assert loss == LoseExtents(
        region_id=region_id, node_id=B, incarnation=Incarnation(1), indices=(1,), error="no memory"
    )
    world.do(loss)
    assert follows(world, b=failed(region_id, 1)) is None


def test_a_deleted_region_is_gone_once_nobody_speaks_of_it(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    world.do(DeleteRegion(name=R))
    region_id = region(world).region_id
    assert follows(world, a=ready(region_id), b=ready(region_id, 1)) is None
    assert follows(world, a=ready(region_id)) is None
    assert follows(world, a=ready(region_id, generation=Generation(0)), b=ready(region_id)) is None
    gone = follows(world, a=ready(region_id), b=ready(region_id))
    assert gone == FinishRegion(region_id=region_id, released=(A, B))


def test_a_silent_lender_does_not_hold_a_deletion_up(with_region: Build) -> None:
    world = with_region(6, 8, 8)
    world.do(DeleteRegion(name=R))
    world.silent = frozenset({B})
    region_id = region(world).region_id
    assert follows(world, a=ready(region_id)) == FinishRegion(region_id=region_id, released=(A,))
