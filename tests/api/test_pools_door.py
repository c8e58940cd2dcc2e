"""The node seed's door, with the seed's own bodies: registering, beating, listing, leaving; and what it got wrong."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worlds import Door, Lender, run, seed_node
from weft.coordinator.app import Limits

SEED_NODE: dict[str, Any] = {
    "node_id": "gpu-node-1",
    "machine_id": "machine-alpha",
    "address": "http://192.168.1.100:9200",
    "pools": ["pool-0", "pool-1"],
    "capabilities": {
        "gpus": [
            {
                "device_id": 0,
                "name": "RTX 3090",
                "vram_total_bytes": 24000000000,
                "compute_capability": "8.6",
            }
        ],
        "cpu_cores": 16,
        "ram_total_bytes": 64000000000,
    },
    "version": "0.1.0",
}
SEED_BEAT: dict[str, Any] = {
    "timestamp": "2025-09-30T22:00:00Z",
    "pools": [
        {
            "pool_id": "pool-0",
            "ready": True,
            "draining": False,
            "slots_free": 3,
            "slots_total": 4,
            "vram_free_bytes": 18000000000,
            "engine": "llamacpp",
        }
    ],
}
BEAT = "/v2/nodes/gpu-node-1/heartbeat"


def cloud(story: Any, **settings: Any) -> None:
    run(story, home=False, **settings)


async def listed(door: Door, query: str = "") -> dict[str, Any]:
    body = await door.ok("GET", f"/v2/nodes{query}")
    assert body["count"] == len(body["nodes"])
    return {node["node_id"]: node for node in body["nodes"]}


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, body["code"], body["success"]) == (status, code, False), body
    assert set(body) == {"success", "message", "node_id", "code"}
    return dict(body)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/nodes/register", SEED_NODE),
        ("POST", BEAT, SEED_BEAT),
        ("DELETE", "/v2/nodes/gpu-node-1", None),
        ("GET", "/v2/nodes", None),
    ],
)
def test_the_home_profile_answers_503_naming_the_variable(method: str, path: str, body: Any) -> None:
    async def story(door: Door) -> None:
        answer = refused(await door(method, path, body), 503, "CLOUD_PROFILE_OFF")
        assert "ORCHESTRATORD_CLOUD_PROFILE" in answer["message"]
        assert answer["node_id"] == (None if method == "GET" else "gpu-node-1")

    run(story)


def test_the_seed_s_node_registers_and_is_listed_with_the_same_capabilities() -> None:
    async def story(door: Door) -> None:
        reply = await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert reply == {"success": True, "message": "node registered", "node_id": "gpu-node-1"}
        node = (await listed(door))["gpu-node-1"]
        assert {name: node[name] for name in SEED_NODE} == SEED_NODE
        assert node["status"] == "Registering"
        assert node["registered_at_ms"] == node["last_heartbeat_ms"] == door.clock.now_ms()

    cloud(story)


def test_an_empty_registry_lists_no_nodes() -> None:
    async def story(door: Door) -> None:
        assert await door.ok("GET", "/v2/nodes") == {"nodes": [], "count": 0}

    cloud(story)


def test_registering_again_updates_in_place() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        before = (await listed(door))["gpu-node-1"]
        position = door.coordinator.writer.state.marks.position
        door.clock.advance(1_000)
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert door.coordinator.writer.state.marks.position == position
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "version": "0.2.0", "address": "10.0.0.9:9200"})
        after = await listed(door)
        assert list(after) == ["gpu-node-1"]
        node = after["gpu-node-1"]
        assert node["registered_at_ms"] == before["registered_at_ms"]
        assert (node["version"], node["address"]) == ("0.2.0", "http://10.0.0.9:9200")

    cloud(story)


def test_registering_again_keeps_a_living_node_online() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, SEED_BEAT)
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert (await listed(door))["gpu-node-1"]["status"] == "Online"

    cloud(story)


def test_a_pool_that_is_no_longer_registered_is_forgotten() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, SEED_BEAT)
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "pools": ["pool-1"]})
        node = (await listed(door))["gpu-node-1"]
        assert (node["pools"], node["pool_status"]) == (["pool-1"], [])
        refused(await door("POST", BEAT, SEED_BEAT), 400, "INVALID_PARAMS")

    cloud(story)


def test_a_heartbeat_says_when_the_next_is_due_and_shows_slots() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert await door.ok("POST", BEAT, SEED_BEAT) == {"success": True, "next_heartbeat_ms": 10_000}
        node = (await listed(door))["gpu-node-1"]
        (pool,) = node["pool_status"]
        assert {name: pool[name] for name in SEED_BEAT["pools"][0]} == SEED_BEAT["pools"][0]
        assert node["status"] == "Online"

    cloud(story)


def test_the_next_heartbeat_follows_from_the_configured_timeout() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert (await door.ok("POST", BEAT, SEED_BEAT))["next_heartbeat_ms"] == 20_000

    cloud(story, limits=Limits(sweep_ms=3_600_000, node_lost_ms=60_000))


def test_a_heartbeat_of_a_stranger_is_404() -> None:
    async def story(door: Door) -> None:
        refused(await door("POST", "/v2/nodes/nobody/heartbeat", SEED_BEAT), 404, "CLUSTER_NOT_FOUND")
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        answer = refused(await door("POST", "/v2/nodes/nobody/heartbeat", SEED_BEAT), 404, "NODE_NOT_FOUND")
        assert answer["node_id"] == "nobody"

    cloud(story)


def test_a_pool_a_beat_does_not_name_is_no_longer_there() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, SEED_BEAT)
        await door.ok("POST", BEAT, {"timestamp": "x", "pools": []})
        assert (await listed(door))["gpu-node-1"]["pool_status"] == []

    cloud(story)


def test_two_nodes_with_pools_of_one_name_keep_their_own() -> None:
    async def story(door: Door) -> None:
        for name, free in (("a", 1), ("b", 2)):
            await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "node_id": name})
            pool = {**SEED_BEAT["pools"][0], "slots_free": free}
            await door.ok("POST", f"/v2/nodes/{name}/heartbeat", {"pools": [pool]})
        assert (await door("DELETE", "/v2/nodes/b")).status_code == 204
        nodes = await listed(door)
        assert nodes["a"]["pool_status"][0]["slots_free"] == 1
        assert "b" not in nodes

    cloud(story)


def test_leaving_takes_everything_along_and_can_be_done_once() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, SEED_BEAT)
        answer = await door("DELETE", "/v2/nodes/gpu-node-1")
        assert (answer.status_code, answer.content) == (204, b"")
        refused(await door("DELETE", "/v2/nodes/gpu-node-1"), 404, "NODE_NOT_FOUND")
        assert await listed(door) == {}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert (await listed(door))["gpu-node-1"]["pool_status"] == []

    cloud(story)


def test_the_list_has_every_status_in_order_of_id_and_can_be_narrowed() -> None:
    async def story(door: Door) -> None:
        for name in ("d", "a", "c", "b"):
            await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "node_id": name, "pools": []})
        for name in ("a", "b", "c"):
            await door.ok("POST", f"/v2/nodes/{name}/heartbeat", {"pools": []})
        await door.ok("POST", "/nodes/b/drain")
        door.clock.advance(20_000)
        await door.ok("POST", "/v2/nodes/a/heartbeat", {"pools": []})
        await door.ok("POST", "/v2/nodes/b/heartbeat", {"pools": []})
        await door.ok("POST", "/v2/nodes/d/heartbeat", {"pools": []})
        door.clock.advance(10_001)
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "node_id": "e"})
        nodes = await listed(door)
        statuses = {name: node["status"] for name, node in nodes.items()}
        assert list(nodes) == ["a", "b", "c", "d", "e"]
        assert statuses == {"a": "Online", "b": "Draining", "c": "Offline", "d": "Online", "e": "Registering"}
        assert list(await listed(door, "?status=Offline")) == ["c"]
        assert list(await listed(door, "?status=online")) == ["a", "d"]
        assert nodes["c"]["last_heartbeat_age_ms"] == 30_001
        refused(await door("GET", "/v2/nodes?status=asleep"), 400, "INVALID_PARAMS")

    cloud(story)


def test_nodes_of_other_doors_are_listed_too() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(7)]})
        await door.ok("POST", "/register", {"id": "s", "zone": "z", "addr": "10.0.0.1:1"})
        nodes = await listed(door)
        assert nodes["7"]["machine_id"] == "node7"
        assert nodes["7"]["capabilities"]["ram_total_bytes"] == 8192 << 20
        assert (nodes["s"]["status"], nodes["s"]["last_heartbeat_ms"]) == ("Online", None)

    cloud(story)


BAD_NODES: list[Any] = [
    {**SEED_NODE, "node_id": ""},
    {**SEED_NODE, "node_id": "a/b"},
    {**SEED_NODE, "node_id": "x" * 257},
    {**SEED_NODE, "node_id": 7},
    {**SEED_NODE, "machine_id": ""},
    {**SEED_NODE, "address": ""},
    {**SEED_NODE, "address": "ftp://a"},
    {**SEED_NODE, "address": "http://"},
    {**SEED_NODE, "address": "http://a:99999"},
    {**SEED_NODE, "pools": ["p", "p"]},
    {**SEED_NODE, "pools": ["a b"]},
    {**SEED_NODE, "pools": "pool-0"},
    {**SEED_NODE, "capabilities": {"gpus": [{"device_id": 0, "name": "x", "vram_total_bytes": 0}]}},
    {**SEED_NODE, "capabilities": {"gpus": [{"device_id": -1, "name": "x", "vram_total_bytes": 1}]}},
    {**SEED_NODE, "capabilities": {"cpu_cores": -1}},
    {name: value for name, value in SEED_NODE.items() if name != "address"},
]


@pytest.mark.parametrize("body", BAD_NODES)
def test_a_registration_with_a_wrong_field_is_refused_and_nothing_is_stored(body: Any) -> None:
    async def story(door: Door) -> None:
        refused(await door("POST", "/v2/nodes/register", body), 400, "INVALID_PARAMS")
        assert await listed(door) == {}

    cloud(story)


def test_a_body_that_says_it_is_no_json_is_not_read() -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/v2/nodes/register", SEED_NODE, content_type="text/plain")
        refused(answer, 415, "UNSUPPORTED_MEDIA")
        answer = await door("POST", "/v2/nodes/register", SEED_NODE, content_type="application/json; charset=utf-8")
        assert answer.status_code == 200
        refused(await door("POST", "/v2/nodes/register", b"{"), 400, "MALFORMED_JSON")

    cloud(story)


def test_a_node_can_say_host_and_port_and_fields_nobody_knows() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "address": "10.0.0.1:9200", "colour": "blue"})
        assert (await listed(door))["gpu-node-1"]["address"] == "http://10.0.0.1:9200"

    cloud(story)


def test_an_engine_that_is_ready_is_bound_once_and_unbound_when_it_is_not() -> None:
    async def story(door: Door) -> None:
        pool = {**SEED_BEAT["pools"][0], "url": "http://10.0.0.1:8081", "replica_id": "r7"}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {"pools": [pool]})
        (first,) = (await listed(door))["gpu-node-1"]["bindings"]
        door.clock.advance(5_000)
        await door.ok("POST", BEAT, {"pools": [pool]})
        (second,) = (await listed(door))["gpu-node-1"]["bindings"]
        assert first == second
        assert set(first) == {"pool", "replica", "url", "bound_at"}
        assert (first["pool"], first["replica"]) == ("pool-0", "r7")
        await door.ok("POST", BEAT, {"pools": [{**pool, "url": "http://10.0.0.1:8082"}]})
        (moved,) = (await listed(door))["gpu-node-1"]["bindings"]
        assert (moved["url"], moved["bound_at"] > first["bound_at"]) == ("http://10.0.0.1:8082", True)
        await door.ok("POST", BEAT, {"pools": [{**pool, "ready": False}]})
        assert (await listed(door))["gpu-node-1"]["bindings"] == []

    cloud(story)


def test_every_replica_of_a_pool_is_bound() -> None:
    async def story(door: Door) -> None:
        replicas = [
            {**SEED_BEAT["pools"][0], "url": f"http://10.0.0.1:{8081 + number}", "replica_id": f"r{number}"}
            for number in range(3)
        ]
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {"pools": replicas})
        node = (await listed(door))["gpu-node-1"]
        assert [(one["pool"], one["replica"], one["url"]) for one in node["bindings"]] == [
            ("pool-0", f"r{number}", f"http://10.0.0.1:{8081 + number}") for number in range(3)
        ]
        assert node["pools"] == ["pool-0", "pool-1"]
        assert [pool["replica_id"] for pool in node["pool_status"]] == ["r0", "r1", "r2"]
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert 'orchd_pool_slots_free{node_id="gpu-node-1",pool_id="pool-0"} 9' in text
        door.clock.advance(5_000)
        await door.ok("POST", BEAT, {"pools": replicas[1:]})
        kept = (await listed(door))["gpu-node-1"]["bindings"]
        assert kept == node["bindings"][1:], "the others stay as they are"

    cloud(story)


def test_a_node_that_is_lost_has_no_adapter_bound() -> None:
    async def story(door: Door) -> None:
        pool = {**SEED_BEAT["pools"][0], "url": "http://10.0.0.1:8081"}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {"pools": [pool]})
        assert len((await door.ok("GET", "/engines"))["engines"]) == 1
        door.clock.advance(30_001)
        await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/engines"))["engines"] == []

    cloud(story)


def test_a_node_that_comes_back_with_the_same_word_has_its_adapter_bound_again() -> None:
    async def story(door: Door) -> None:
        pool = {**SEED_BEAT["pools"][0], "url": "http://10.0.0.1:8081"}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        for _ in range(2):
            await door.ok("POST", BEAT, {"pools": [pool]})
        door.clock.advance(30_001)
        await door.coordinator.sweep.look()
        await door.ok("POST", BEAT, {"pools": [pool]})
        assert len((await door.ok("GET", "/engines"))["engines"]) == 1

    cloud(story)


def test_an_adapter_of_a_node_past_its_time_is_shown_to_nobody_before_any_sweep() -> None:
    async def story(door: Door) -> None:
        pool = {**SEED_BEAT["pools"][0], "url": "http://10.0.0.1:8081"}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {"pools": [pool]})
        door.clock.advance(30_000)
        assert len((await door.ok("GET", "/engines"))["engines"]) == 1
        door.clock.advance(1)
        assert (await door.ok("GET", "/engines"))["engines"] == []
        assert (await listed(door))["gpu-node-1"]["bindings"] == []

    cloud(story, limits=Limits(sweep_ms=3_600_000))


@pytest.mark.parametrize("is_told", [False, True], ids=["lost", "deregistered"])
def test_an_adapter_is_unbound_with_its_node_and_bound_anew_only_by_its_next_word(is_told: bool) -> None:
    async def story(door: Door) -> None:
        pool = {**SEED_BEAT["pools"][0], "url": "http://10.0.0.1:8081"}
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {"pools": [pool]})
        (before,) = (await listed(door))["gpu-node-1"]["bindings"]
        door.clock.advance(30_001)
        if is_told:
            assert (await door("DELETE", "/v2/nodes/gpu-node-1")).status_code == 204
        else:
            await door.coordinator.sweep.look()
        assert '"adapter unbound"' in door.log.getvalue()
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        assert (await listed(door))["gpu-node-1"]["bindings"] == [], "it came in, and said nothing of an engine yet"
        await door.ok("POST", BEAT, {"pools": [pool]})
        (after,) = (await listed(door))["gpu-node-1"]["bindings"]
        assert after["bound_at"] > before["bound_at"]

    cloud(story)


def test_a_word_that_was_taken_before_is_refused_once_its_pool_is_registered_no_more() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        for _ in range(2):
            await door.ok("POST", BEAT, SEED_BEAT)
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "pools": ["pool-1"]})
        answer = refused(await door("POST", BEAT, SEED_BEAT), 400, "INVALID_PARAMS")
        assert "pool-0" in answer["message"]

    cloud(story)


def test_the_pools_of_a_node_of_weft_come_with_its_own_beats() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", {**SEED_NODE, "node_id": "a"})
        lender = Lender(door, "a")
        body = lender.body()
        body["observations"]["pools"] = SEED_BEAT["pools"]
        await door.ok("POST", "/nodes/a/beat", body)
        node = (await listed(door))["a"]
        assert node["pool_status"][0]["slots_free"] == 3
        assert node["status"] == "Online"
        body["observations"]["draining"] = True
        await door.ok("POST", "/nodes/a/beat", body)
        assert (await listed(door))["a"]["status"] == "Draining"

    cloud(story)


def test_calls_are_counted_by_outcome_and_strangers_under_one_label() -> None:
    async def story(door: Door) -> None:
        await door("POST", "/v2/nodes/register", SEED_NODE)
        await door("POST", "/v2/nodes/register", {**SEED_NODE, "address": "ftp://a"})
        await door("POST", BEAT, SEED_BEAT)
        for number in range(5):
            await door("POST", f"/v2/nodes/stranger-{number}/heartbeat", SEED_BEAT)
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert 'orchd_node_registrations_total{outcome="ok"} 1' in text
        assert 'orchd_node_registrations_total{outcome="invalid"} 1' in text
        assert 'orchd_node_heartbeats_total{node_id="gpu-node-1",outcome="ok"} 1' in text
        assert 'orchd_node_heartbeats_total{node_id="unknown",outcome="not_found"} 5' in text
        assert "stranger" not in text
        assert 'orchd_nodes{status="online"} 1' in text
        assert 'orchd_pool_slots_free{node_id="gpu-node-1",pool_id="pool-0"} 3' in text
        assert 'orchd_node_heartbeat_age_ms{node_id="gpu-node-1"} 0' in text
        await door("DELETE", "/v2/nodes/gpu-node-1")
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert 'orchd_node_deregistrations_total{outcome="ok"} 1' in text
        assert 'node_id="gpu-node-1"' not in text

    cloud(story)


def test_what_happens_to_a_node_is_told_with_node_machine_and_correlation_id() -> None:
    async def story(door: Door) -> None:
        await door("POST", "/v2/nodes/register", SEED_NODE, x_correlation_id="wish-1")
        await door("POST", BEAT, SEED_BEAT)
        door.clock.advance(30_001)
        await door.coordinator.sweep.look()
        lines = {line["event"]: line for line in map(json.loads, door.log.getvalue().splitlines())}
        registered = lines["node registered"]
        assert (registered["node_id"], registered["machine_id"]) == ("gpu-node-1", "machine-alpha")
        assert (registered["correlation_id"], registered["by"]) == ("wish-1", "localhost")
        assert lines["node online"]["node_id"] == "gpu-node-1"
        assert lines["node offline"]["age_ms"] == 30_001

    cloud(story)


GUARD = Limits(sweep_ms=3_600_000, beat_skew_ms=30_000)
NOW_S = 1_700_000_000


def at(seconds: float) -> str:
    """A time as seconds after the one at which every story begins."""
    return datetime.fromtimestamp(NOW_S + seconds, UTC).isoformat()


def test_a_replayed_beat_is_refused_where_the_guard_is_on() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        await door.ok("POST", BEAT, {**SEED_BEAT, "timestamp": at(0)})
        door.clock.advance(10_000)
        await door.ok("POST", BEAT, {**SEED_BEAT, "timestamp": at(10)})
        for recorded in (at(0), at(10)):
            answer = refused(await door("POST", BEAT, {**SEED_BEAT, "timestamp": recorded}), 409, "BEAT_REPLAYED")
            assert answer["node_id"] == "gpu-node-1"
        door.clock.advance(25_000)
        refused(await door("POST", BEAT, {**SEED_BEAT, "timestamp": at(10)}), 409, "BEAT_REPLAYED")
        assert (await listed(door))["gpu-node-1"]["last_heartbeat_age_ms"] == 25_000, "it kept nobody alive"
        await door.ok("POST", BEAT, {**SEED_BEAT, "timestamp": at(35)})

    cloud(story, limits=GUARD)


@pytest.mark.parametrize("wrong", [None, "", "yesterday", "2023-11-14T22:13:20", at(-30.1), at(30.1)])
def test_a_beat_of_another_time_is_refused_where_the_guard_is_on(wrong: str | None) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/v2/nodes/register", SEED_NODE)
        answer = refused(await door("POST", BEAT, {**SEED_BEAT, "timestamp": wrong}), 400, "INVALID_PARAMS")
        assert "timestamp" in answer["message"]
        assert (await listed(door))["gpu-node-1"]["status"] == "Registering"
        for right in (at(-30), at(30)):
            await door.ok("POST", BEAT, {**SEED_BEAT, "timestamp": right})

    cloud(story, limits=GUARD)


def test_a_node_that_left_and_came_back_begins_anew_with_the_guard() -> None:
    async def story(door: Door) -> None:
        for _ in range(2):
            await door.ok("POST", "/v2/nodes/register", SEED_NODE)
            await door.ok("POST", BEAT, {**SEED_BEAT, "timestamp": at(0)})
            assert (await door("DELETE", "/v2/nodes/gpu-node-1")).status_code == 204

    cloud(story, limits=GUARD)
