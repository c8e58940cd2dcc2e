"""The ring and the scheduler over HTTP: end to end, with the storage seed's own bodies."""

import math
from typing import Any

import pytest

from tests.worlds import Door, Lender, run
from weft.coordinator.app import Limits
from weft.model.policy import COUNT_MAX, NODE_LOST_MS, WEIGHT_MAX

README_WORKLOAD = {
    "cpu_req": 0.2,
    "ram_req_mb": 1024.0,
    "gpu_req": None,
    "max_latency_ms": 10.0,
    "io_tolerance": None,
}
README_STATS = {"cpu_free": 0.75, "ram_free_mb": 8192.0, "gpu_free": 0.5, "latency_ms": 5.0, "io_pressure": 0.1}
README_WEIGHTS = {"w_cpu": 1.0, "w_ram": 1.5, "w_gpu": 0.5, "w_latency": 1.0, "w_io": 0.8}
KEYS = ["object-123", "k0", "k1", "abc123def456"]
HOUR = Limits(sweep_ms=3_600_000)


async def register(door: Door, node_id: str, zone: str = "a", capacity_gb: int = 100, **more: Any) -> None:
    body = {"id": node_id, "zone": zone, "addr": "10.0.0.1:50051", "capacity_gb": capacity_gb, **more}
    assert await door.ok("POST", "/register", body) == {"ok": True}


async def report(door: Door, node_id: str, **figures: float) -> None:
    await door.ok("POST", f"/node/{node_id}/stats", {**README_STATS, **figures})


def test_the_pinned_placements_come_out_of_the_door() -> None:
    async def story(door: Door) -> None:
        assert await door.ok("GET", "/placement/object-123?rf=3") == []
        for node_id, zone, capacity_gb in (("n3", "a", 800), ("n0", "a", 100), ("n2", "c", 200), ("n1", "b", 400)):
            await register(door, node_id, zone, capacity_gb)
        placed = [await door.ok("GET", f"/placement/{key}?rf=3") for key in KEYS]
        assert placed == [["n3", "n2", "n1"], ["n3", "n1", "n2"], ["n0", "n1", "n2"], ["n3", "n1", "n2"]]

    run(story)


@pytest.mark.parametrize(("query", "count"), [("", 3), ("?rf=0", 0), ("?rf=1", 1), ("?rf=99", 4)])
def test_three_replicas_are_wanted_unless_somebody_says_otherwise(query: str, count: int) -> None:
    async def story(door: Door) -> None:
        for node_id in "abcd":
            await register(door, node_id)
        assert len(await door.ok("GET", f"/placement/k{query}")) == count

    run(story)


@pytest.mark.parametrize("query", ["rf=-1", "rf=many", "rf=1025", "rf=1.5"])
def test_a_count_that_is_none_is_a_wrong_field(query: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", f"/placement/k?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")

    run(story)


def test_a_path_with_a_parameter_is_served() -> None:
    """The original's /placement/{hash} and /object/{hash} never matched anything."""

    async def story(door: Door) -> None:
        assert (await door("GET", "/placement/abc123")).status_code == 200

    run(story)


def test_placement_follows_who_is_there() -> None:
    async def story(door: Door) -> None:
        for node_id in "abc":
            await register(door, node_id, zone=node_id)
        before = {key: await door.ok("GET", f"/placement/{key}?rf=1") for key in KEYS}
        await register(door, "d", zone="d", capacity_gb=400)
        for key in KEYS:
            assert (await door.ok("GET", f"/placement/{key}?rf=1"))[0] in (before[key][0], "d")
        await door.ok("DELETE", "/nodes/d")
        assert {key: await door.ok("GET", f"/placement/{key}?rf=1") for key in KEYS} == before

    run(story)


def test_a_node_that_registers_again_with_more_room_is_given_more() -> None:
    async def story(door: Door) -> None:
        for node_id in "ab":
            await register(door, node_id)
        keys = [f"k{index}" for index in range(300)]
        light = sum([(await door.ok("GET", f"/placement/{key}?rf=1")) == ["a"] for key in keys])
        await register(door, "a", capacity_gb=800)
        heavy = sum([(await door.ok("GET", f"/placement/{key}?rf=1")) == ["a"] for key in keys])
        assert light < 200 < heavy

    run(story)


def test_an_offline_node_is_never_offered_work_even_before_the_sweep() -> None:
    async def story(door: Door) -> None:
        lenders = [Lender(door, name) for name in "abcdef"]
        await door.found(*lenders)
        everybody = await door.ok("GET", "/placement/k?rf=6")
        assert sorted(everybody) == list("abcdef")
        door.clock.advance(NODE_LOST_MS + 1)
        for lender in lenders[1:]:
            await lender.beat()
        assert "a" not in await door.ok("GET", "/placement/k?rf=6")
        await report(door, "b")
        explained = (await door.ok("POST", "/schedule?explain=1", {}))["explanation"]
        assert {"node_id": "a", "score": None, "refused": "the node is not heard"} in explained
        await lenders[0].beat()
        assert await door.ok("GET", "/placement/k?rf=6") == everybody

    run(story, limits=HOUR)


def test_a_draining_node_is_offered_nothing_new() -> None:
    async def story(door: Door) -> None:
        for node_id in "ab":
            await register(door, node_id)
            await report(door, node_id)
        await door.ok("POST", "/nodes/a/drain")
        assert await door.ok("GET", "/placement/k?rf=2") == ["b"]
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "b"

    run(story)


def test_a_node_nobody_promised_beats_for_counts_as_alive() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        door.clock.advance(100 * NODE_LOST_MS)
        assert await door.ok("GET", "/placement/k") == ["a"]

    run(story)


def test_the_readme_s_workload_picks_the_node_that_suits_it() -> None:
    async def story(door: Door) -> None:
        for node_id in ("node-1", "node-2", "node-3"):
            await register(door, node_id)
        await report(door, "node-1", cpu_free=0.1)
        await report(door, "node-2")
        await report(door, "node-3", latency_ms=11.0)
        assert await door.ok("POST", "/schedule", README_WORKLOAD) == {"node_id": "node-2"}
        explained = await door.ok("POST", "/schedule?explain=1", README_WORKLOAD)
        assert explained["explanation"] == [
            {"node_id": "node-2", "score": pytest.approx(19.792), "refused": None},
            {"node_id": "node-1", "score": None, "refused": "cpu_free 0.1 is less than 0.2"},
            {"node_id": "node-3", "score": None, "refused": "latency_ms 11 is more than 10"},
        ]

    run(story)


def test_io_tolerance_is_honoured() -> None:
    async def story(door: Door) -> None:
        for node_id, pressure in (("busy", 0.9), ("idle", 0.1)):
            await register(door, node_id)
            await report(door, node_id, io_pressure=pressure, cpu_free=pressure)
        await door.ok("POST", "/scheduler/config", {"w_cpu": 100})
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "busy"
        assert (await door.ok("POST", "/schedule", {"io_tolerance": 0.5}))["node_id"] == "idle"

    run(story)


def test_no_suitable_node_is_404_in_the_seed_s_words_and_explained_when_asked() -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/schedule", {})
        assert (answer.status_code, answer.json()["error"]) == (404, "no suitable node")
        await register(door, "a")
        answer = await door("POST", "/schedule?explain=1", {"cpu_req": 0.5})
        assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUITABLE_NODE")
        assert answer.json()["fields"]["explanation"][0]["refused"] == "cpu_free 0 is less than 0.5"

    run(story)


def test_weights_take_effect_on_the_next_schedule() -> None:
    async def story(door: Door) -> None:
        for node_id, cpu_free, ram_free_mb in (("quick", 1.0, 1000.0), ("roomy", 0.1, 9000.0)):
            await register(door, node_id)
            await report(door, node_id, cpu_free=cpu_free, ram_free_mb=ram_free_mb)
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "roomy"
        answer = await door.ok("POST", "/scheduler/config", {"w_cpu": 1, "w_ram": 0})
        assert answer["ok"] is True
        assert answer["message"] == "scheduler config updated"
        assert (await door.ok("POST", "/schedule", {}))["node_id"] == "quick"

    run(story)


def test_a_weight_that_is_left_out_is_the_seed_s_and_not_the_one_at_boot() -> None:
    async def story(door: Door) -> None:
        boot = await door.ok("GET", "/scheduler/config")
        assert (boot["w_ram"], boot["w_latency"], boot["version"]) == (0.001, 50, 0)
        config = (await door.ok("POST", "/scheduler/config", {"unknown": 1}))["config"]
        assert config == {
            "w_cpu": 1.0,
            "w_ram": 1.0,
            "w_gpu": 0.5,
            "w_latency": 0.8,
            "w_io": 0.6,
            "normalised": False,
            "version": 1,
        }
        config = (await door.ok("POST", "/scheduler/config", README_WEIGHTS))["config"]
        assert config["version"] == 2
        assert await door.ok("GET", "/scheduler/config") == config

    run(story)


@pytest.mark.parametrize(
    "weights", [{"w_cpu": -1}, {"w_ram": "much"}, b'{"w_io": 1e999}', b'{"w_io": NaN}', {"w_gpu": 1e10}]
)
def test_a_weight_that_is_no_finite_number_from_zero_is_refused(weights: Any) -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/scheduler/config", weights)
        assert answer.status_code in (400, 422)
        assert (await door.ok("GET", "/scheduler/config"))["version"] == 0

    run(story)


def test_weights_outlive_the_coordinator(tmp_path: Any) -> None:
    async def first(door: Door) -> None:
        await door.ok("POST", "/scheduler/config", README_WEIGHTS)

    async def then(door: Door) -> None:
        assert (await door.ok("GET", "/scheduler/config"))["w_ram"] == 1.5

    run(first, tmp_path)
    run(then, tmp_path)


def test_the_largest_weights_and_figures_still_make_scores_that_are_numbers() -> None:
    async def story(door: Door) -> None:
        for name in "ab":
            await register(door, name)
        largest = {"cpu_free": 1, "ram_free_mb": COUNT_MAX, "gpu_free": COUNT_MAX, "latency_ms": 0, "io_pressure": 1}
        for name in "ab":
            await door.ok("POST", f"/node/{name}/stats", largest)
        for normalised in (False, True):
            weights = dict.fromkeys(README_WEIGHTS, WEIGHT_MAX)
            await door.ok("POST", "/scheduler/config", {**weights, "normalised": normalised})
            explained = (await door.ok("POST", "/schedule?explain=1", {}))["explanation"]
            assert all(isinstance(one["score"], float) and math.isfinite(one["score"]) for one in explained)

    run(story)


def test_a_key_with_an_escaped_slash_has_a_place_like_any_other() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        assert await door.ok("GET", "/placement/a%2Fb") == ["a"]
        assert await door.ok("GET", "/placement/a%2fb%2Fc?rf=1") == ["a"]
        assert (await door("GET", "/placement/a/b")).status_code == 404, "a slash as it is divides"
        assert (await door("POST", "/placement/a%2Fb")).status_code in (404, 405)
        assert (await door("GET", "/node/a%2Fb")).status_code == 404

    run(story)


@pytest.mark.parametrize("zone", ["", " ", "\t \n"])
def test_a_zone_nobody_could_read_is_refused(zone: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/register", {"id": "a", "zone": zone, "addr": "10.0.0.1:1"})
        assert (answer.status_code, answer.json()["fields"]["field"]) == (422, "zone")

    run(story)
