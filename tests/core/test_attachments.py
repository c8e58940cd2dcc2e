"""Attachments: who may be in a region together, and the floor that shuts out the rest."""

from collections.abc import Callable

import pytest

from tests.worlds import World
from weft.core.holding import target_generation
from weft.model.attachment import Closing, Mode
from weft.model.commands import CloseAttachment, OpenAttachment, PlanRegion, SealRegion
from weft.model.errors import (
    AttachmentConflict,
    AttachmentNotFound,
    NotYet,
    RegionInUse,
    RegionNotReady,
    RegionNotSealed,
    RegionSealed,
    WeftError,
)
from weft.model.events import AttachmentClosed, AttachmentOpened
from weft.model.ids import AttachmentId, NodeId, RegionName
from weft.model.region import Region

Build = Callable[..., World]
R = RegionName("r")


def attach(world: World, mode: Mode = Mode.EXCLUSIVE, holder: str = "me", takeover: bool = False) -> AttachmentOpened:
    opened = world.do(OpenAttachment(region=R, mode=mode, holder=holder, takeover=takeover))[-1]
    assert isinstance(opened, AttachmentOpened)
    return opened


def detach(world: World, attachment_id: AttachmentId) -> None:
    world.do(CloseAttachment(region=R, attachment_id=attachment_id, reason=Closing.DETACHED))


def region(world: World) -> Region:
    (found,) = world.state.regions.values()
    return found


@pytest.mark.parametrize(
    ("sealed", "present", "wanted", "outcome"),
    [
        (False, None, Mode.EXCLUSIVE, None),
        (False, None, Mode.READ, RegionNotSealed),
        (False, None, Mode.PRIVATE, RegionNotSealed),
        (False, None, Mode.SHARED, NotYet),
        (False, Mode.EXCLUSIVE, Mode.EXCLUSIVE, AttachmentConflict),
        (False, Mode.EXCLUSIVE, Mode.READ, RegionNotSealed),
        (True, None, Mode.EXCLUSIVE, RegionSealed),
        (True, None, Mode.READ, None),
        (True, None, Mode.PRIVATE, None),
        (True, Mode.READ, Mode.READ, None),
        (True, Mode.READ, Mode.PRIVATE, None),
        (True, Mode.PRIVATE, Mode.READ, None),
        (True, Mode.READ, Mode.EXCLUSIVE, RegionSealed),
        (True, None, Mode.SHARED, NotYet),
    ],
)
def test_who_may_be_in_a_region_together(
    with_region: Build, sealed: bool, present: Mode | None, wanted: Mode, outcome: type[WeftError] | None
) -> None:
    world = with_region(2, 8)
    if sealed:
        world.do(SealRegion(name=R))
    if present is not None:
        attach(world, present, "other")
    if outcome is None:
        attach(world, wanted)
        return
    with pytest.raises(outcome):
        attach(world, wanted)


def test_every_attachment_takes_the_next_generation(with_region: Build) -> None:
    world = with_region(2, 8)
    first = attach(world)
    detach(world, first.attachment_id)
    second = attach(world)
    assert (first.generation, second.generation) == (1, 2)


def test_a_takeover_closes_who_is_in_the_way_and_fences_it(with_region: Build) -> None:
    world = with_region(2, 8)
    old = attach(world, holder="old")
    closed, opened = world.do(OpenAttachment(region=R, mode=Mode.EXCLUSIVE, holder="new", takeover=True))
    assert closed == AttachmentClosed(attachment_id=old.attachment_id, reason=Closing.TAKEN_OVER)
    assert isinstance(opened, AttachmentOpened)
    assert region(world).floor == opened.generation > old.generation


def test_a_closed_writer_is_shut_out_before_anybody_follows(with_region: Build) -> None:
    world = with_region(2, 8)
    old = attach(world)
    detach(world, old.attachment_id)
    assert region(world).floor == old.generation + 1


def test_readers_are_shut_out_no_earlier_than_the_oldest_of_them_leaves(with_region: Build) -> None:
    world = with_region(2, 8)
    world.do(SealRegion(name=R))
    first, second = attach(world, Mode.READ), attach(world, Mode.READ)
    detach(world, second.attachment_id)
    assert region(world).floor == first.generation
    detach(world, first.attachment_id)
    assert region(world).floor == second.generation + 1


def test_attaching_changes_the_lenders_target(with_region: Build) -> None:
    world = with_region(2, 8)
    before = target_generation(world.state, NodeId("a"))
    attach(world)
    assert target_generation(world.state, NodeId("a")) > before


def test_a_region_with_a_writer_is_not_sealed(with_region: Build) -> None:
    world = with_region(2, 8)
    writer = attach(world, holder="the writer")
    with pytest.raises(RegionInUse, match="the writer"):
        world.do(SealRegion(name=R))
    detach(world, writer.attachment_id)
    world.do(SealRegion(name=R))
    assert world.do(SealRegion(name=R)) == ()


def test_an_attachment_is_closed_once(with_region: Build) -> None:
    world = with_region(2, 8)
    mine = attach(world)
    detach(world, mine.attachment_id)
    with pytest.raises(AttachmentNotFound):
        detach(world, mine.attachment_id)


def test_a_planned_region_cannot_be_attached(lending: Build) -> None:
    world = lending(8)
    world.do(PlanRegion(name=R, size_bytes=1))
    with pytest.raises(RegionNotReady, match="planned"):
        attach(world)
