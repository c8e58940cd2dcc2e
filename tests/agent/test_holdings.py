"""What a node does about its target: which step comes next, and what it may claim to have done."""

from weft.agent.holdings import Holdings, RaiseGeneration, Release, Reserve, WantedExtent
from weft.model.ids import Generation, RegionId

REGION = RegionId("r0000000000000001")
OTHER = RegionId("r0000000000000002")


def wanted(index: int = 0, *, region_id: RegionId = REGION, generation: int = 1) -> WantedExtent:
    return WantedExtent(
        region_id=region_id, region="scratch", index=index, size_bytes=2 << 20, generation=Generation(generation)
    )


def holding(*extents: WantedExtent, generation: int = 1) -> Holdings:
    """A node that holds these extents already, under a target of this generation."""
    holdings = Holdings()
    holdings.aim(Generation(generation), extents)
    while (step := holdings.next_reservation()) is not None:
        holdings.begin(step)
        holdings.reserved(step)
    while (fence := holdings.next_fence()) is not None:
        assert isinstance(fence, RaiseGeneration)
        holdings.raised(fence)
    return holdings


def test_an_extent_that_is_wanted_and_not_held_is_reserved() -> None:
    holdings = Holdings()
    holdings.aim(Generation(3), [wanted(0)])

    assert holdings.next_reservation() == Reserve(extent=wanted(0))


def test_a_reservation_under_way_is_not_begun_again() -> None:
    holdings = Holdings()
    holdings.aim(Generation(3), [wanted(0)])
    holdings.begin(Reserve(extent=wanted(0)))

    assert holdings.next_reservation() is None


def test_an_older_target_is_a_late_answer_and_changes_nothing() -> None:
    holdings = holding(wanted(0), generation=5)

    assert not holdings.aim(Generation(4), [])
    assert holdings.next_fence() is None
    assert holdings.generation == 5


def test_a_newer_generation_of_a_region_is_a_fence_and_is_not_claimed_before_it_stands() -> None:
    holdings = holding(wanted(0), generation=5)
    holdings.aim(Generation(6), [wanted(0, generation=2)])

    fence = holdings.next_fence()
    assert fence == RaiseGeneration(region_id=REGION, generation=Generation(2))
    assert holdings.generation == 5

    holdings.raised(fence)
    assert holdings.next_fence() is None
    assert holdings.generation == 6


def test_a_fence_does_not_wait_for_a_reservation() -> None:
    holdings = holding(wanted(0), generation=5)
    holdings.aim(Generation(6), [wanted(0, generation=2), wanted(0, region_id=OTHER)])

    assert holdings.next_fence() == RaiseGeneration(region_id=REGION, generation=Generation(2))
    holdings.raised(RaiseGeneration(region_id=REGION, generation=Generation(2)))
    assert holdings.generation == 6
    assert holdings.next_reservation() == Reserve(extent=wanted(0, region_id=OTHER))


def test_an_extent_not_wanted_any_more_is_released_first_and_claimed_last() -> None:
    holdings = holding(wanted(0), wanted(1), generation=5)
    holdings.aim(Generation(6), [wanted(0)])

    assert holdings.next_fence() == Release(region_id=REGION, index=1)
    assert holdings.generation == 5
    holdings.released(Release(region_id=REGION, index=1))
    assert holdings.generation == 6


def test_memory_reserved_for_a_target_that_moved_on_is_released_before_the_target_is_claimed() -> None:
    holdings = Holdings()
    holdings.aim(Generation(3), [wanted(0)])
    holdings.begin(Reserve(extent=wanted(0)))
    holdings.aim(Generation(4), [])

    assert holdings.generation == 3
    holdings.reserved(Reserve(extent=wanted(0)))
    assert holdings.next_fence() == Release(region_id=REGION, index=0)
    holdings.released(Release(region_id=REGION, index=0))
    assert holdings.generation == 4


def test_a_failed_reservation_is_reported_and_not_tried_again_until_it_is_dropped() -> None:
    holdings = Holdings()
    holdings.aim(Generation(3), [wanted(0)])
    holdings.begin(Reserve(extent=wanted(0)))
    holdings.refused(Reserve(extent=wanted(0)), "no memory")

    [(key, state)] = holdings.states()
    assert (key, state.state, state.error) == ((REGION, 0), "failed", "no memory")
    assert holdings.next_reservation() is None

    holdings.aim(Generation(4), [])
    assert holdings.states() == []
    assert holdings.next_fence() is None


def test_an_extent_reserved_under_an_older_floor_is_fenced_anew() -> None:
    holdings = holding(wanted(0, generation=3), generation=5)
    stale = wanted(1, generation=2)
    holdings.aim(Generation(6), [wanted(0, generation=3), stale])
    holdings.begin(Reserve(extent=stale))
    holdings.aim(Generation(7), [wanted(0, generation=3), wanted(1, generation=3)])
    holdings.reserved(Reserve(extent=stale))

    assert holdings.next_fence() == RaiseGeneration(region_id=REGION, generation=Generation(3))


def test_what_is_lost_when_the_node_leaves_is_named_by_region() -> None:
    holdings = holding(wanted(0), wanted(1))

    assert holdings.regions_held() == {"scratch": 2}
    assert holdings.reserved_bytes == 4 << 20
