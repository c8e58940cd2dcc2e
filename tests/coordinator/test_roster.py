"""The roster: one ring for each version of who is in the cluster, and the reasons for which nodes are set aside."""

import asyncio

from tests.worlds import Door, Lender, coordinator_door, run, seed_node
from weft.coordinator.roster import DRAINING, OFFLINE, Roster
from weft.core.ring import Ring, describe_member
from weft.model.ids import NodeId
from weft.model.policy import NODE_LOST_MS, RING_UNIT_GB

KEYS = [f"k{index}" for index in range(30)]


def roster_of(door: Door) -> Roster:
    return door.coordinator._roster


def built_anew(door: Door) -> Ring:
    nodes = door.coordinator.writer.state.nodes.values()
    return Ring.of(describe_member(node, RING_UNIT_GB) for node in nodes)


async def join(door: Door, *node_ids: int) -> None:
    for node_id in node_ids:
        await door.ok("POST", "/nodes", seed_node(node_id, status="active"))


def test_the_ring_is_made_once_for_each_version_of_who_is_there() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        ring = roster_of(door).ring
        await lender.beat()
        await door.ok("POST", "/regions", {"name": "r", "size_bytes": 1})
        await door.ok("GET", "/placement/k")
        assert roster_of(door).ring is ring, "beats and regions change nothing about who is there"
        await join(door, 1)
        assert roster_of(door).ring is not ring

    run(story)


def test_a_ring_that_followed_the_log_is_the_one_that_is_built_from_its_state() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        await join(door, *range(40))
        assert len(roster_of(door).ring) == 40
        await join(door, 40)
        await door.ok("DELETE", "/nodes/7")
        await door.ok("POST", "/register", {"id": "8", "zone": "z", "addr": "10.0.0.1:1", "capacity_gb": 500})
        ring, fresh = roster_of(door).ring, built_anew(door)
        assert ring.members() == fresh.members()
        assert [ring.place(key, 3) for key in KEYS] == [fresh.place(key, 3) for key in KEYS]
        await door.ok("DELETE", "/cluster")
        assert len(roster_of(door).ring) == 0

    run(story)


def test_two_coordinators_that_follow_one_log_place_alike(tmp_path: object) -> None:
    rings: list[list[list[NodeId]]] = []

    async def first(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        await join(door, *range(12))
        await door.ok("DELETE", "/nodes/3")
        rings.append([roster_of(door).ring.place(key, 3) for key in KEYS])

    async def then(door: Door) -> None:
        rings.append([roster_of(door).ring.place(key, 3) for key in KEYS])

    run(first, tmp_path)  # type: ignore[arg-type]
    run(then, tmp_path)  # type: ignore[arg-type]
    assert rings[0] == rings[1]


def test_why_a_node_is_set_aside_is_said_and_a_drain_outlives_the_silence() -> None:
    async def story(door: Door) -> None:
        lender, *others = lenders = [Lender(door, name) for name in "abcdef"]
        await door.found(*lenders)
        assert roster_of(door).aside() == {}
        await door.ok("POST", "/nodes/b/drain")
        door.clock.advance(NODE_LOST_MS + 1)
        for one in others:
            await one.beat()
        await door.coordinator.sweep.look()
        assert roster_of(door).aside() == {"a": OFFLINE, "b": DRAINING}
        await lender.beat()
        assert roster_of(door).aside() == {"b": DRAINING}

    run(story)


def test_a_coordinator_that_starts_knows_who_rests() -> None:
    async def story() -> None:
        async with coordinator_door() as door:
            await door.found(Lender(door, "a"))
            await door.ok("POST", "/nodes/a/drain")
            again = Roster(door.coordinator._beats.verdict)
            again.attend(door.coordinator.writer.state)
            assert again.aside() == {"a": DRAINING}
            assert again.ring.members() == roster_of(door).ring.members()

    asyncio.run(story())
