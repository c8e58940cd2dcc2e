"""Jobs on engine pools over HTTP: slots that are promised once, sessions that stay, nodes that are lost."""

import asyncio
from typing import Any

import pytest

from tests.worlds import Door, FakeClock, run
from weft.coordinator.app import Limits
from weft.coordinator.jobs import Jobs
from weft.coordinator.observations import POOLS_PER_NODE_MAX, Observations
from weft.core.placement import Candidate, JobNeeds, Strategy
from weft.model.errors import PlacementNotFound
from weft.model.ids import NodeId, PlacementId
from weft.model.policy import NODE_LOST_MS, SESSION_MS
from weft.model.pool import PoolSnapshot

LIMITS = Limits(sweep_ms=3_600_000)
ABSENT = "p" + "0" * 16


def cloud(story: Any, **settings: Any) -> None:
    run(story, home=False, limits=LIMITS, **settings)


async def register(door: Door, node_id: str, *pools: str) -> None:
    body = {
        "node_id": node_id,
        "machine_id": f"machine-{node_id}",
        "address": f"http://10.0.0.1:9200/{node_id}",
        "pools": list(pools or ["pool-0"]),
    }
    await door.ok("POST", "/v2/nodes/register", body)


async def beat(door: Door, node_id: str, **fields: Any) -> None:
    pool = {
        "pool_id": "pool-0",
        "ready": True,
        "slots_free": 4,
        "slots_total": 4,
        "vram_free_bytes": 1000,
        "models_available": ["m"],
        **fields,
    }
    await door.ok("POST", f"/v2/nodes/{node_id}/heartbeat", {"timestamp": "2025-09-30T22:00:00Z", "pools": [pool]})


async def join(door: Door, *node_ids: str, **fields: Any) -> None:
    for node_id in node_ids:
        await register(door, node_id)
        await beat(door, node_id, **fields)


async def place(door: Door, **needs: Any) -> dict[str, Any]:
    return dict(await door.ok("POST", "/v2/placements", needs))


async def refusal(door: Door, **needs: Any) -> tuple[int, str]:
    answer = await door("POST", "/v2/placements", needs)
    assert set(answer.json()) == {"success", "message", "node_id", "code"}
    return answer.status_code, answer.json()["code"]


def test_a_hundred_callers_and_four_free_slots_are_exactly_four_placements() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b", slots_free=2)
        answers = await asyncio.gather(*(door("POST", "/v2/placements", {}) for _ in range(100)))
        placed = [answer.json() for answer in answers if answer.status_code == 200]
        assert len(placed) == len({one["placement_id"] for one in placed}) == 4
        assert sorted(one["node_id"] for one in placed) == ["a", "a", "b", "b"]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 96
        assert {answer.json()["code"] for answer in refused} == {"POOL_UNAVAILABLE"}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}

    cloud(story)


def test_a_placement_says_where_a_job_goes() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", replica_id="r7")
        job = await place(door)
        assert job == {
            "placement_id": job["placement_id"],
            "node_id": "a",
            "pool_id": "pool-0",
            "replica_id": "r7",
            "node_address": "http://10.0.0.1:9200/a",
        }
        assert await door.ok("GET", f"/v2/placements/{job['placement_id']}") == job

    cloud(story)


def test_every_replica_of_a_pool_is_placed_on_and_has_its_own_slots() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        replica = {"pool_id": "pool-0", "ready": True, "slots_free": 2, "slots_total": 2}
        described = [{**replica, "replica_id": name} for name in ("r0", "r1")]
        await door.ok("POST", "/v2/nodes/a/heartbeat", {"pools": described})
        placed = [(await place(door))["replica_id"] for _ in range(4)]
        assert placed == ["r0", "r1", "r0", "r1"]
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


def test_a_request_that_is_repeated_under_its_id_is_given_the_same_slot() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=2)
        first, again, other = [
            (await door("POST", "/v2/placements", {"model": "m"}, weft_request_id=name)).json()
            for name in ("one", "one", "two")
        ]
        assert first == again
        assert other["placement_id"] != first["placement_id"]
        changed = await door("POST", "/v2/placements", {}, weft_request_id="one")
        assert changed.status_code == 503, "the same id with another body is another request"

    cloud(story)


def test_slots_are_promised_until_the_node_speaks_next() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        await place(door)
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")
        await beat(door, "a", slots_free=0)
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")
        await beat(door, "a", slots_free=1)
        await place(door)

    cloud(story)


def test_a_job_that_ends_before_the_node_spoke_gives_its_slot_back_once() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        job = await place(door)
        ended = await door("DELETE", f"/v2/placements/{job['placement_id']}")
        assert (ended.status_code, ended.content) == (204, b"")
        await place(door)
        again = await door("DELETE", f"/v2/placements/{job['placement_id']}")
        assert (again.status_code, again.content) == (204, b""), "a caller that lost the answer asks again"
        assert await refusal(door) == (503, "POOL_UNAVAILABLE"), "and takes nobody else's slot away"
        shown = await door("GET", f"/v2/placements/{job['placement_id']}")
        assert (shown.status_code, shown.json()["code"]) == (404, "PLACEMENT_NOT_FOUND")

    cloud(story)


def test_a_job_that_ends_after_the_node_spoke_frees_nothing_the_node_has_not_freed() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        job = await place(door)
        await beat(door, "a", slots_free=0)
        await door("DELETE", f"/v2/placements/{job['placement_id']}")
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"model": "other"}, (404, "MODEL_NOT_AVAILABLE")),
        ({"vram_bytes": 1001}, (503, "POOL_UNAVAILABLE")),
        ({"devices": [0]}, (503, "POOL_UNAVAILABLE")),
        ({"placement": {"node_id": "nobody"}}, (503, "NODE_UNAVAILABLE")),
        ({"strategy": "best"}, (400, "INVALID_PARAMS")),
        ({"colour": "blue"}, (400, "INVALID_PARAMS")),
        ({"vram_bytes": -1}, (400, "INVALID_PARAMS")),
    ],
)
def test_a_job_nobody_can_take_is_refused_with_its_code(needs: dict[str, Any], expected: tuple[int, str]) -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        assert await refusal(door, **needs) == expected
        assert len(door.coordinator._jobs) == 0

    cloud(story)


@pytest.mark.parametrize("fields", [{"ready": False}, {"draining": True}, {"slots_free": 0}])
def test_a_pool_that_takes_no_work_is_given_none(fields: dict[str, Any]) -> None:
    async def story(door: Door) -> None:
        await join(door, "a", **fields)
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


def test_devices_are_matched_by_name_or_number() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", devices=["0", "1"])
        assert (await place(door, devices=[1, "0"]))["node_id"] == "a"
        assert await refusal(door, devices=["2"]) == (503, "POOL_UNAVAILABLE")

    cloud(story)


def test_a_node_that_registered_and_never_spoke_of_its_pools_is_given_none() -> None:
    async def story(door: Door) -> None:
        await register(door, "a")
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


def test_a_pool_that_is_no_longer_registered_is_never_placed_on() -> None:
    async def story(door: Door) -> None:
        await register(door, "a", "pool-0", "pool-1")
        await beat(door, "a", pool_id="pool-1")
        await register(door, "a", "pool-0")
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


def test_round_robin_cycles_evenly_whoever_registered_first() -> None:
    async def story(door: Door) -> None:
        await join(door, "c", "a", "b", slots_free=100, slots_total=100)
        names = [(await place(door))["node_id"] for _ in range(300)]
        assert names == ["a", "b", "c"] * 100

    cloud(story)


def test_least_loaded_takes_the_most_free_memory() -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        await join(door, "b", vram_free_bytes=2000)
        assert (await place(door, strategy="least-loaded", vram_bytes=1500))["node_id"] == "b"
        # What the first job was promised is no longer free.
        assert (await place(door, strategy="least-loaded"))["node_id"] == "a"

    cloud(story, strategy=Strategy.LEAST_LOADED)


def test_random_placement_is_the_same_from_the_same_seed() -> None:
    runs: list[list[str]] = []

    async def story(door: Door) -> None:
        await join(door, "a", "b", "c", slots_free=50, slots_total=50)
        runs.append([(await place(door, strategy="random"))["node_id"] for _ in range(30)])

    cloud(story)
    cloud(story)
    assert runs[0] == runs[1]
    assert set(runs[0]) <= {"a", "b", "c"}


def test_a_bad_pin_is_node_unavailable_and_a_good_one_is_kept() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b")
        for _ in range(3):
            assert (await place(door, placement={"node_id": "b"}))["node_id"] == "b"
        door.clock.advance(NODE_LOST_MS + 1)
        await beat(door, "a")
        answer = await door("POST", "/v2/placements", {"placement": {"node_id": "b"}})
        assert (answer.status_code, answer.json()["code"], answer.json()["node_id"]) == (503, "NODE_UNAVAILABLE", "b")

    cloud(story)


def test_a_session_goes_to_the_node_it_was_on_while_that_has_room() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b", "c", slots_free=2)
        first = (await place(door, session="s"))["node_id"]
        await place(door)
        assert (await place(door, session="s"))["node_id"] == first
        assert (await place(door, session="s"))["node_id"] != first

    cloud(story)


def test_a_session_that_was_idle_for_too_long_has_no_node_any_more() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b")
        assert (await place(door, session="s"))["node_id"] == "a"
        door.clock.advance(SESSION_MS + 1)
        await beat(door, "a")
        await beat(door, "b")
        assert (await place(door, session="s"))["node_id"] == "b"

    cloud(story)


def test_when_a_node_is_lost_its_jobs_are_reset_and_its_sessions_go_elsewhere() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b")
        job = await place(door, session="s")
        assert job["node_id"] == "a"
        door.clock.advance(NODE_LOST_MS + 1)
        await beat(door, "b")
        answer = await door("GET", f"/v2/placements/{job['placement_id']}")
        assert (answer.status_code, answer.json()["code"]) == (410, "WORKER_RESET")
        assert answer.json()["node_id"] == "a"
        assert (await place(door, session="s"))["node_id"] == "b"

    cloud(story)


def test_a_job_that_was_reset_stays_so_when_its_node_returns_and_the_session_avoids_that_node() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", "b")
        job = await place(door, session="s")
        await door.ok("DELETE", "/nodes/a")
        await join(door, "a")
        assert (await door("GET", f"/v2/placements/{job['placement_id']}")).status_code == 410
        assert (await place(door, session="s"))["node_id"] == "b"
        assert (await door("DELETE", f"/v2/placements/{job['placement_id']}")).status_code == 204

    cloud(story)


def test_a_node_that_is_back_and_has_not_spoken_of_its_pools_is_given_nothing_on_the_strength_of_its_old_word() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        first = await place(door)
        await door.pass_time(NODE_LOST_MS + 1)
        await door.coordinator.sweep.look()
        assert (await door("GET", f"/v2/placements/{first['placement_id']}")).json()["code"] == "WORKER_RESET"
        # The first half of a beat: the node counts as heard, and what it says of its pools comes next.
        await door.coordinator._beats.hear_of(NodeId("a"))
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")
        await beat(door, "a", slots_free=1)
        assert (await place(door))["node_id"] == "a"

    cloud(story)


def test_a_node_that_beats_again_is_placed_on_again_by_itself() -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        door.clock.advance(NODE_LOST_MS + 1)
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")
        await beat(door, "a")
        assert (await place(door))["node_id"] == "a"

    cloud(story)


def test_a_draining_node_finishes_its_jobs_and_gets_no_more() -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        job = await place(door)
        await door.ok("POST", "/nodes/a/drain")
        assert (await door("GET", f"/v2/placements/{job['placement_id']}")).status_code == 200
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")
        await door.ok("POST", "/nodes/a/resume")
        await place(door)

    cloud(story)


def test_a_deregistered_node_is_given_nothing() -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        assert (await door("DELETE", "/v2/nodes/a")).status_code == 204
        assert await refusal(door) == (503, "POOL_UNAVAILABLE")

    cloud(story)


@pytest.mark.parametrize(
    ("placement_id", "status", "code"), [(ABSENT, 404, "PLACEMENT_NOT_FOUND"), ("x", 400, "INVALID_PARAMS")]
)
def test_a_placement_nobody_knows_is_not_found(placement_id: str, status: int, code: str) -> None:
    async def story(door: Door) -> None:
        for method in ("GET", "DELETE"):
            answer = await door(method, f"/v2/placements/{placement_id}")
            assert (answer.status_code, answer.json()["code"]) == (status, code)

    cloud(story)


def test_availability_counts_nodes_and_not_pools() -> None:
    async def story(door: Door) -> None:
        assert await door.ok("GET", "/v2/catalog/availability") == {
            "models": [],
            "total_models": 0,
            "replicated_models": 0,
            "single_node_models": 0,
        }
        await join(door, "b", models_available=["m", "n"])
        await join(door, "a", models_available=["m"], slots_total=2, slots_free=0)
        assert await door.ok("GET", "/v2/catalog/availability") == {
            "models": [
                {"model_id": "m", "nodes": ["a", "b"], "total_nodes": 2, "total_capacity": 6},
                {"model_id": "n", "nodes": ["b"], "total_nodes": 1, "total_capacity": 4},
            ],
            "total_models": 2,
            "replicated_models": 1,
            "single_node_models": 1,
        }
        assert await refusal(door, model="q") == (404, "MODEL_NOT_AVAILABLE")

    cloud(story)


def test_at_home_availability_names_the_variable_and_a_job_goes_to_the_one_place_there_is() -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/v2/catalog/availability")
        assert answer.status_code == 503
        assert "ORCHESTRATORD_CLOUD_PROFILE" in answer.json()["message"]
        job = await place(door)
        assert job == {
            "placement_id": job["placement_id"],
            "node_id": None,
            "pool_id": "default",
            "replica_id": "r0",
            "node_address": None,
        }
        assert await door.ok("GET", f"/v2/placements/{job['placement_id']}") == job
        assert (await door("DELETE", f"/v2/placements/{job['placement_id']}")).status_code == 204

    run(story)


def test_the_table_of_jobs_is_bounded_and_the_oldest_is_forgotten_first() -> None:
    jobs = Jobs(FakeClock(), jobs_max=2, sessions_max=2)
    pool = PoolSnapshot(pool_id="p", ready=True, slots_free=9, slots_total=9)
    candidate = Candidate(NodeId("a"), pool, 0, 0)
    for name in "xyz":
        jobs.promise(PlacementId(name), candidate, JobNeeds(), session=name)
    assert len(jobs) == 2
    assert jobs.promised == {(NodeId("a"), "p", "r0"): (3, 0)}, "a slot stays promised until the node speaks"
    with pytest.raises(PlacementNotFound):
        jobs.find(PlacementId("x"), {})
    assert jobs.leaning("x") == (None, None)
    assert jobs.leaning("z") == ("a", None)


def test_requests_are_remembered_up_to_a_bound() -> None:
    jobs = Jobs(FakeClock(), jobs_max=2)
    for name in "xyz":
        jobs.note_request(name, jobs.keep_fixed(PlacementId(name), "default", "r0"))
    assert [jobs.find_repeat(name) for name in "xyz"] == [None, "y", "z"]


def test_a_node_that_describes_more_replicas_than_anybody_has_is_believed_the_first_of_them() -> None:
    seen = Observations()
    pools = [
        PoolSnapshot(pool_id=f"p{number:05}", ready=True, slots_free=1, slots_total=1)
        for number in range(POOLS_PER_NODE_MAX + 5)
    ]
    seen.see_pools(NodeId("a"), pools)
    assert [pool_id for pool_id, _ in seen.pools_of(NodeId("a"))] == [one.pool_id for one in pools][:POOLS_PER_NODE_MAX]


def test_ended_jobs_are_remembered_up_to_a_bound() -> None:
    jobs = Jobs(FakeClock(), jobs_max=2)
    for name in "xyz":
        jobs.keep_fixed(PlacementId(name), "default", "r0")
        jobs.end(PlacementId(name))
    for name in "yz":
        jobs.end(PlacementId(name))
        assert PlacementId(name) in jobs, "an id that was given once is not given again"
    with pytest.raises(PlacementNotFound):
        jobs.end(PlacementId("x"))


def test_decisions_are_counted_by_strategy_and_outcome() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        await place(door)
        await refusal(door)
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert 'weft_placement_decisions_total{strategy="round-robin",outcome="placed"} 1' in text
        assert 'weft_placement_decisions_total{strategy="round-robin",outcome="POOL_UNAVAILABLE"} 1' in text

    cloud(story)


def test_a_repeat_of_the_request_for_a_job_that_was_reset_says_so() -> None:
    async def story(door: Door) -> None:
        await join(door, "a")
        first = await door.ok("POST", "/v2/placements", {}, weft_request_id="r-1")
        assert await door.ok("POST", "/v2/placements", {}, weft_request_id="r-1") == first
        door.clock.advance(NODE_LOST_MS + 1)
        answer = await door("POST", "/v2/placements", {}, weft_request_id="r-1")
        assert (answer.status_code, answer.json()["code"]) == (410, "WORKER_RESET")
        await beat(door, "a")
        answer = await door("POST", "/v2/placements", {}, weft_request_id="r-1")
        assert answer.status_code == 410, "for good, also when the node is back"
        assert (await door.ok("POST", "/v2/placements", {}, weft_request_id="r-2"))["node_id"] == "a"

    cloud(story)


def test_a_late_copy_of_the_request_for_a_job_that_is_over_places_no_second_one() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        first = await door.ok("POST", "/v2/placements", {}, weft_request_id="r-1")
        assert (await door("DELETE", f"/v2/placements/{first['placement_id']}")).status_code == 204
        answer = await door("POST", "/v2/placements", {}, weft_request_id="r-1")
        assert (answer.status_code, answer.json()["code"]) == (404, "PLACEMENT_NOT_FOUND")
        assert (await place(door))["node_id"] == "a", "the slot is free"

    cloud(story)


def test_engines_of_a_node_past_its_time_are_not_told_to_anybody() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", url="http://10.0.0.1:8081")
        assert [one["node_id"] for one in (await door.ok("GET", "/engines"))["engines"]] == ["a"]
        door.clock.advance(NODE_LOST_MS + 1)
        assert (await door.ok("GET", "/engines"))["engines"] == []
        (node,) = (await door.ok("GET", "/v2/nodes"))["nodes"]
        assert (node["status"], node["bindings"]) == ("Offline", [])
        await beat(door, "a", url="http://10.0.0.1:8081")
        assert [one["node_id"] for one in (await door.ok("GET", "/engines"))["engines"]] == ["a"]

    cloud(story)


def test_a_pool_nobody_registered_is_taken_at_no_door() -> None:
    async def story(door: Door) -> None:
        await register(door, "a", "pool-0")
        pools = [
            {"pool_id": name, "ready": True, "slots_free": 1, "slots_total": 1, "url": "http://10.0.0.1:1"}
            for name in ("pool-0", "pool-9")
        ]
        assert (await door("POST", "/v2/nodes/a/heartbeat", {"pools": pools})).status_code == 400
        body = {"incarnation": f"{1:016x}", "generation": 0, "wait_ms": 0, "observations": {"pools": pools}}
        for _ in range(2):
            await door.ok("POST", "/nodes/a/beat", body)
        (node,) = (await door.ok("GET", "/v2/nodes"))["nodes"]
        assert [pool["pool_id"] for pool in node["pool_status"]] == ["pool-0"]
        assert [one["pool"] for one in (await door.ok("GET", "/engines"))["engines"]] == ["pool-0"]
        assert (await place(door))["pool_id"] == "pool-0"
        assert (await refusal(door)) == (503, "POOL_UNAVAILABLE")
        told = [line for line in door.log.getvalue().splitlines() if "pool-9" in line and "left out" in line]
        assert len(told) == 1, "the beat goes on, and one line says why the pool is not there"

    cloud(story)


def test_a_job_is_told_when_every_node_with_pools_is_silent() -> None:
    async def story(door: Door) -> None:
        assert "no node has described a pool" in (await door("POST", "/v2/placements", {})).json()["message"]
        await join(door, "a")
        door.clock.advance(NODE_LOST_MS + 1)
        said = (await door("POST", "/v2/placements", {})).json()["message"]
        assert "no node that described a pool is given work" in said
        assert "a: the node is not heard" in said

    cloud(story)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", "/v2/nodes/register", {"node_id": "x"}, {}),
        ("POST", "/v2/nodes/register", b"{not json", {}),
        ("POST", "/v2/nodes/register", b"", {}),
        ("POST", "/v2/nodes/register", {"node_id": "x"}, {"content_type": "text/plain"}),
        ("POST", "/v2/nodes/x/heartbeat", {"pools": 7}, {}),
        ("DELETE", "/v2/nodes/x", None, {}),
        ("GET", "/v2/nodes?status=bogus", None, {}),
        ("GET", "/v2/nodes?at_least=bogus", None, {}),
        ("GET", "/v2/catalog/availability", None, {}),
    ],
)
def test_at_home_the_registry_is_off_whatever_else_is_wrong(
    method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    async def story(door: Door) -> None:
        answer = await door(method, path, body, **headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "CLOUD_PROFILE_OFF")
        assert "ORCHESTRATORD_CLOUD_PROFILE" in answer.json()["message"]
        assert answer.json()["node_id"] == ("x" if "x" in path or isinstance(body, dict) else None)

    run(story)


def test_the_time_a_placement_takes_is_a_histogram() -> None:
    async def story(door: Door) -> None:
        await join(door, "a", slots_free=1)
        await place(door)
        await refusal(door)
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert "# TYPE weft_placement_latency_seconds histogram" in text
        assert 'weft_placement_latency_seconds_bucket{le="0.1"} 2' in text
        assert 'weft_placement_latency_seconds_bucket{le="+Inf"} 2' in text
        assert "weft_placement_latency_seconds_count 2" in text

    cloud(story)
