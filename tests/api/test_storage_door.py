"""The storage seed's door for nodes, with the seed's own bodies; and one record behind all three doors."""

from typing import Any

import pytest

from tests.worlds import Door, Lender, run, seed_node, seed_tcp

SEED_NODE = {"id": "node-1", "zone": "zone-a", "addr": "10.0.0.1:50051", "capacity_gb": 100}
SEED_STATS = {"cpu_free": 0.75, "ram_free_mb": 8192.0, "gpu_free": 0.5, "latency_ms": 5.0, "io_pressure": 0.1}


def test_the_seed_s_quick_test_needs_no_cluster() -> None:
    async def story(door: Door) -> None:
        assert await door.ok("GET", "/nodes") == []
        assert await door.ok("POST", "/register", SEED_NODE) == {"ok": True}
        assert await door.ok("GET", "/nodes") == [{**SEED_NODE, "meta": {}}]
        assert await door.ok("GET", "/node/node-1") == {**SEED_NODE, "meta": {}}

    run(story)


def test_a_node_that_gives_no_capacity_has_a_hundred() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", {"id": "a", "zone": "z", "addr": "a:1"})
        assert (await door.ok("GET", "/node/a"))["capacity_gb"] == 100

    run(story)


def test_registering_again_updates_in_place_and_the_same_again_is_no_event() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        position = door.coordinator.writer.state.marks.position
        await door.ok("POST", "/register", SEED_NODE)
        assert door.coordinator.writer.state.marks.position == position
        await door.ok("POST", "/register", {**SEED_NODE, "zone": "zone-b"})
        assert [node["zone"] for node in await door.ok("GET", "/nodes")] == ["zone-b"]

    run(story)


def test_the_list_is_in_order_of_id() -> None:
    async def story(door: Door) -> None:
        for name in ("c", "a", "b"):
            await door.ok("POST", "/register", {**SEED_NODE, "id": name})
        assert [node["id"] for node in await door.ok("GET", "/nodes")] == ["a", "b", "c"]

    run(story)


def test_a_node_nobody_knows_is_not_found_by_the_seed_s_sentence() -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/node/nobody")
        body = answer.json()
        assert answer.status_code == 404
        assert (body["error"], body["node_id"], body["code"]) == ("node not found", "nobody", "NODE_NOT_FOUND")

    run(story)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "a b"},
        {"zone": ""},
        {"addr": "10.0.0.1"},
        {"addr": ":50051"},
        {"addr": "10.0.0.1:0"},
        {"addr": "10.0.0.1:65536"},
        {"addr": "a b:1"},
        {"capacity_gb": 0},
        {"capacity_gb": -5},
        {"capacity_gb": 1.5},
    ],
)
def test_a_wrong_field_is_refused_and_nothing_is_stored(wrong: dict[str, Any]) -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/register", {**SEED_NODE, **wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")
        assert await door.ok("GET", "/nodes") == []

    run(story)


def test_stats_go_round() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        assert await door.ok("POST", "/node/node-1/stats", SEED_STATS) == {"ok": True, "node_id": "node-1"}
        shown = await door.ok("GET", "/node/node-1/stats")
        assert shown == {"node_id": "node-1", "found": True, "stats": SEED_STATS}

    run(story)


def test_stats_that_leave_something_out_get_the_seed_s_defaults() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        await door.ok("POST", "/node/node-1/stats", {"cpu_free": 1, "ram_free_mb": 1})
        stats = (await door.ok("GET", "/node/node-1/stats"))["stats"]
        assert stats == {"cpu_free": 1, "ram_free_mb": 1, "gpu_free": 0, "latency_ms": 10, "io_pressure": 0}

    run(story)


def test_stats_nobody_gave_are_not_found_and_that_is_no_error() -> None:
    async def story(door: Door) -> None:
        nothing = {"node_id": "node-1", "found": False, "stats": None}
        assert await door.ok("GET", "/node/node-1/stats") == nothing
        await door.ok("POST", "/register", SEED_NODE)
        assert await door.ok("GET", "/node/node-1/stats") == nothing
        assert (await door("POST", "/node/nobody/stats", SEED_STATS)).status_code == 404

    run(story)


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"cpu_free": NaN, "ram_free_mb": 1}',
        b'{"cpu_free": 1e999, "ram_free_mb": 1}',
        b'{"cpu_free": 1.5, "ram_free_mb": 1}',
        b'{"cpu_free": -0.1, "ram_free_mb": 1}',
        b'{"cpu_free": 1, "ram_free_mb": -1}',
        b'{"cpu_free": 1, "ram_free_mb": 1, "latency_ms": -1}',
        b'{"cpu_free": 1, "ram_free_mb": 1, "io_pressure": 2}',
        b'{"cpu_free": 1}',
    ],
)
def test_stats_that_are_no_figures_are_refused(wrong: bytes) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        assert (await door("POST", "/node/node-1/stats", wrong)).status_code in (400, 422)
        assert (await door.ok("GET", "/node/node-1/stats"))["found"] is False

    run(story)


def test_stats_keep_a_watched_node_heard_and_begin_no_watch() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ok("POST", "/register", SEED_NODE)
        await door.ok("POST", "/node/node-1/stats", SEED_STATS)
        door.clock.advance(29_000)
        await door.ok("POST", "/node/a/stats", SEED_STATS)
        door.clock.advance(29_000)
        members = {member["node_id"]: member for member in (await door.ok("GET", "/cluster"))["members"]}
        assert members["a"]["status"] == "active"
        assert members["node-1"]["last_beat_ms_ago"] is None

    run(story)


def test_what_nobody_gave_follows_from_the_other_doors() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node("a", memory_mb=65_536)]})
        shown = await door.ok("GET", "/node/a")
        assert shown == {"id": "a", "zone": "default", "addr": "", "capacity_gb": 64, "meta": {}}
        await door.ok("POST", "/nodes/a/endpoint", seed_tcp())
        assert (await door.ok("GET", "/node/a"))["addr"] == "192.168.1.10:50051"

    run(story)


@pytest.mark.parametrize("leaving", ["/nodes/node-1", "/v2/nodes/node-1"])
def test_leaving_by_any_door_removes_the_node_everywhere(leaving: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        await door.ok("POST", "/node/node-1/stats", SEED_STATS)
        body = {"node_id": "node-1", "machine_id": "m", "address": "a:1"}
        await door.ok("POST", "/v2/nodes/register", body)
        await door.ok("POST", "/nodes", seed_node("node-1"))
        assert (await door("DELETE", leaving)).status_code in (200, 204)
        assert await door.ok("GET", "/nodes") == []
        assert (await door.ok("GET", "/v2/nodes"))["count"] == 0
        assert (await door.ok("GET", "/cluster"))["members"] == []
        assert (await door.ok("GET", "/node/node-1/stats"))["found"] is False

    run(story, home=False)


def test_a_door_replaces_its_own_fields_and_leaves_the_others() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", SEED_NODE)
        await door.ok("POST", "/v2/nodes/register", {"node_id": "node-1", "machine_id": "m", "address": "a:1"})
        await door.ok("POST", "/nodes", seed_node("node-1"))
        await door.ok("POST", "/register", {**SEED_NODE, "zone": "zone-b"})
        (member,) = (await door.ok("GET", "/cluster"))["members"]
        (listed,) = (await door.ok("GET", "/v2/nodes"))["nodes"]
        assert member["hostname"] == "nodenode-1"
        assert (listed["machine_id"], listed["address"]) == ("m", "http://a:1")
        assert (await door.ok("GET", "/node/node-1"))["zone"] == "zone-b"
        assert (await door("POST", "/nodes", seed_node("node-1"))).json()["code"] == "NODE_EXISTS"

    run(story, home=False)


def test_a_node_can_be_drained_and_resumed_at_weft_s_own_door() -> None:
    async def story(door: Door) -> None:
        await door.found(Lender(door, "a"))
        assert await door.ok("POST", "/nodes/a/drain") == {"node_id": "a", "status": "draining"}
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "leaving"
        assert await door.ok("POST", "/nodes/a/resume") == {"node_id": "a", "status": "online"}
        assert (await door("POST", "/nodes/b/drain")).status_code == 404

    run(story)
