"""Liveness in a whole coordinator: reads that do not wait for the sweep, the brake, the grace and the purge."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import STRIPE, Door, Lender, run
from weft.coordinator.app import Limits

LATE_MS = 30_001


def cloud(story: Any, **settings: Any) -> None:
    run(story, home=False, **settings)


async def register(door: Door, *names: str, pools: tuple[str, ...] = ()) -> None:
    for name in names:
        body = {"node_id": name, "machine_id": "m", "address": "a:1", "pools": pools}
        await door.ok("POST", "/v2/nodes/register", body)


async def beat(door: Door, *names: str) -> None:
    for name in names:
        await door.ok("POST", f"/v2/nodes/{name}/heartbeat", {"pools": []})


async def statuses(door: Door) -> dict[str, str]:
    return {node["node_id"]: node["status"] for node in (await door.ok("GET", "/v2/nodes"))["nodes"]}


def test_the_timeout_holds_on_every_read_before_any_sweep() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")
        door.clock.advance(LATE_MS - 1)
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(1)
        assert await statuses(door) == {"a": "Offline"}
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "failed"
        assert (await door.ok("GET", "/metrics", accept="application/json"))["active_nodes"] == 0

    cloud(story)


def test_the_configured_timeout_is_the_one_that_holds() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")
        door.clock.advance(LATE_MS)
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(30_000)
        assert await statuses(door) == {"a": "Offline"}

    cloud(story, limits=Limits(sweep_ms=3_600_000, node_lost_ms=60_000))


def test_a_node_that_registers_and_never_beats_goes_offline() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        assert await statuses(door) == {"a": "Registering"}
        door.clock.advance(LATE_MS)
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Offline"}

    cloud(story)


def test_an_offline_node_is_back_by_a_beat_alone() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")
        door.clock.advance(LATE_MS)
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Offline"}
        await beat(door, "a")
        assert await statuses(door) == {"a": "Online"}

    cloud(story)


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
def test_a_step_of_the_wall_clock_changes_no_status(step_ms: int) -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")
        door.clock.step_ms = step_ms
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(LATE_MS)
        assert await statuses(door) == {"a": "Offline"}

    cloud(story)


def test_most_nodes_silent_at_once_are_doubted_first_and_given_up_later() -> None:
    async def story(door: Door) -> None:
        names = ("a", "b", "c", "d")
        await register(door, *names)
        await beat(door, *names)
        door.clock.advance(LATE_MS)
        await beat(door, "d")
        await door.coordinator.sweep.look()
        assert set((await statuses(door)).values()) == {"Online"}
        assert "giving up none of them yet" in door.log.getvalue()
        door.clock.advance(29_998)
        await beat(door, "d")
        assert set((await statuses(door)).values()) == {"Online"}
        door.clock.advance(2)
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Offline", "b": "Offline", "c": "Offline", "d": "Online"}

    cloud(story)


def test_the_doubt_is_over_when_it_turns_out_that_nodes_can_be_heard() -> None:
    async def story(door: Door) -> None:
        names = ("a", "b", "c", "d")
        await register(door, *names)
        await beat(door, *names)
        door.clock.advance(LATE_MS)
        await beat(door, "d")
        assert set((await statuses(door)).values()) == {"Online"}
        await beat(door, "b")
        assert await statuses(door) == {"a": "Offline", "b": "Online", "c": "Offline", "d": "Online"}

    cloud(story)


def test_a_few_nodes_of_many_are_given_up_at_once() -> None:
    async def story(door: Door) -> None:
        names = [f"n{number}" for number in range(10)]
        await register(door, *names)
        await beat(door, *names)
        door.clock.advance(LATE_MS - 1)
        await beat(door, *names[4:])
        door.clock.advance(1)
        assert sorted((await statuses(door)).values()) == ["Offline"] * 4 + ["Online"] * 6

    cloud(story)


def test_a_coordinator_that_begins_gives_every_node_a_whole_timeout(tmp_path: Any) -> None:
    async def before(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")

    async def after(door: Door) -> None:
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(LATE_MS - 1)
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(1)
        assert await statuses(door) == {"a": "Offline"}

    cloud(before, directory=tmp_path)
    cloud(after, directory=tmp_path)


def test_a_coordinator_that_was_stopped_blames_no_node_for_it() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        await beat(door, "a")
        door.clock.advance(120_000)
        door.coordinator._beats.excuse(119_000)
        assert await statuses(door) == {"a": "Online"}
        door.clock.advance(LATE_MS)
        assert await statuses(door) == {"a": "Offline"}

    cloud(story)


def test_a_node_that_is_offline_for_long_enough_is_forgotten() -> None:
    async def story(door: Door) -> None:
        await register(door, "a", "b")
        await beat(door, "a", "b")
        door.clock.advance(LATE_MS)
        await beat(door, "b")
        await door.coordinator.sweep.look()
        door.clock.advance(59_998)
        await beat(door, "b")
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"a": "Offline", "b": "Online"}
        door.clock.advance(2)
        await door.coordinator.sweep.look()
        assert await statuses(door) == {"b": "Online"}

    cloud(story, limits=Limits(sweep_ms=3_600_000, node_purge_ms=60_000))


def test_a_node_that_holds_part_of_a_region_is_not_forgotten() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 1, lender)
        for _ in range(2):
            door.clock.advance(10 * LATE_MS)
            await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/cluster"))["nodes"] == 1
        assert (await door.ok("GET", "/regions/r"))["state"] == "ready"

    run(story, limits=Limits(sweep_ms=3_600_000, node_purge_ms=60_000))


def test_a_draining_node_keeps_what_it_has_and_is_planned_on_no_more() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a", lend_stripes=8)
        await door.found(lender)
        await door.ready_region("r", 1, lender)
        await door.ok("POST", "/nodes/a/drain")
        await lender.beat()
        refused = await door("POST", "/regions", {"name": "s", "size_bytes": STRIPE})
        assert refused.json()["code"] == "CAPACITY_EXCEEDED"
        assert (await door.ok("GET", "/regions/r"))["state"] == "ready"

    run(story)


def test_a_drained_lender_that_returns_is_still_drained() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ok("POST", "/nodes/a/drain")
        door.clock.advance(LATE_MS)
        await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "failed"
        await lender.beat()
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "leaving"

    run(story)


def test_a_hundred_beats_at_once_are_all_heard() -> None:
    async def story(door: Door) -> None:
        names = [f"n{number}" for number in range(100)]
        await register(door, *names)
        await asyncio.gather(*(beat(door, name) for name in names))
        assert set((await statuses(door)).values()) == {"Online"}

    cloud(story)


def test_what_waited_while_the_coordinator_was_stopped_is_answered_without_blaming_a_node() -> None:
    async def story(door: Door) -> None:
        await register(door, "a", pools=("pool-0",))
        pool = {"pool_id": "pool-0", "ready": True, "slots_free": 1, "slots_total": 1}
        await door.ok("POST", "/v2/nodes/a/heartbeat", {"pools": [pool]})
        placement = (await door.ok("POST", "/v2/placements", {}))["placement_id"]
        door.clock.stop(5 * LATE_MS)
        # No timer has rung since: these were in the socket already.
        assert (await door.ok("GET", f"/v2/placements/{placement}"))["node_id"] == "a"
        assert await door.ok("GET", "/placement/k") == ["a"]
        assert await statuses(door) == {"a": "Online"}
        assert door.log.getvalue().count("was stopped for a while") == 1
        door.clock.advance(LATE_MS)
        assert await statuses(door) == {"a": "Offline"}, "its own silence counts as ever"

    cloud(story)


def test_every_reader_of_silence_takes_a_stop_of_the_coordinator_out_first() -> None:
    readers = {
        "/v2/nodes": lambda seen: seen["nodes"][0]["status"] == "Online",
        "/cluster": lambda seen: seen["members"][0]["status"] == "active",
        "/placement/k": lambda seen: seen == ["a"],
    }

    async def story(door: Door) -> None:
        await register(door, "a")
        for path, is_right in readers.items():
            await beat(door, "a")
            door.clock.stop(5 * LATE_MS)
            assert is_right(await door.ok("GET", path)), path
        await beat(door, "a")
        door.clock.stop(5 * LATE_MS)
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "a"

    cloud(story)


def test_a_node_whose_beat_waits_counts_as_heard_until_the_coordinator_was_stopped() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        waiting = asyncio.ensure_future(lender.beat(wait_ms=3_000))
        await door.settle()
        door.clock.advance(LATE_MS - 1)
        door.clock.stop(LATE_MS)
        assert await statuses(door) == {"a": "Online"}
        waiting.cancel()
        await door.settle()
        assert await statuses(door) == {"a": "Online"}

    cloud(story)


def test_a_lease_does_not_end_while_the_coordinator_is_stopped() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 1, lender)
        opening = door.ok("POST", "/regions/r/attachments", {"mode": "exclusive", "holder": "me"})
        await door.during(opening, lender)
        door.clock.stop(2 * 3_600_000)
        await lender.beat()
        door.coordinator.pulse.look()
        await door.coordinator.sweep.look()
        assert len((await door.ok("GET", "/regions/r"))["attachments"]) == 1

    cloud(story)


def test_a_node_that_beat_once_is_missed_also_by_the_next_coordinator(tmp_path: Path) -> None:
    async def first(door: Door) -> None:
        await door.ok("POST", "/register", {"id": "s", "zone": "z", "addr": "10.0.0.1:1"})
        await door.ok("POST", "/register", {"id": "quiet", "zone": "z", "addr": "10.0.0.2:1"})
        position = door.coordinator.writer.state.marks.position
        await beat(door, "s")
        await beat(door, "s")
        assert door.coordinator.writer.state.marks.position == position + 1, (
            "the first beat is a fact, the next is none"
        )

    async def second(door: Door) -> None:
        door.clock.advance(LATE_MS)
        assert await statuses(door) == {"s": "Offline", "quiet": "Online"}
        assert await door.ok("GET", "/placement/k?rf=2") == ["quiet"]

    cloud(first, directory=tmp_path)
    cloud(second, directory=tmp_path)


def test_a_node_that_promised_beats_and_was_never_heard_is_given_no_work() -> None:
    async def story(door: Door) -> None:
        await register(door, "promised")
        assert (await door("POST", "/schedule", {})).status_code == 404
        assert await door.ok("GET", "/placement/k") == []
        await door.ok("POST", "/register", {"id": "stores", "zone": "z", "addr": "10.0.0.1:1"})
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "stores", "nobody promised beats for this one"
        assert await door.ok("GET", "/placement/k") == ["stores"]
        await beat(door, "promised")
        assert sorted(await door.ok("GET", "/placement/k")) == ["promised", "stores"]

    cloud(story)
