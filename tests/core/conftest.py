"""Worlds in which nodes lend."""

from collections.abc import Callable

import pytest

from tests.worlds import World, node
from weft.model.commands import AdmitBeat, ConfirmRegion, PlanRegion
from weft.model.ids import Incarnation, NodeId, RegionName
from weft.model.policy import STRIPE_BYTES


@pytest.fixture
def lending() -> Callable[..., World]:
    """A world whose nodes a, b, c … lend so many stripes each and have beaten in their first life."""

    def build(*stripes: int) -> World:
        names = "abcdefgh"[: len(stripes)]
        world = World.founded(*(node(name, count) for name, count in zip(names, stripes, strict=True)))
        for name in names:
            world.do(AdmitBeat(node_id=NodeId(name), incarnation=Incarnation(1)))
        return world

    return build


@pytest.fixture
def with_region(lending: Callable[..., World]) -> Callable[..., World]:
    """The same with a ready region r of so many stripes."""

    def build(size_stripes: int, *stripes: int) -> World:
        world = lending(*stripes)
        name = RegionName("r")
        world.do(PlanRegion(name=name, size_bytes=size_stripes * STRIPE_BYTES))
        region_id = world.state.region_ids.get(name)
        assert region_id is not None
        world.do(ConfirmRegion(region_id=region_id))
        return world

    return build
