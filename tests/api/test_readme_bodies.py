"""The storage seed's README, read aloud: each of its routes with its own body, and the answer it prints."""

from typing import Any

from tests.worlds import Door, run
from weft.api.routes import ROUTES

STATS = {"cpu_free": 0.75, "ram_free_mb": 8192.0, "gpu_free": 0.5, "latency_ms": 5.0, "io_pressure": 0.1}
WEIGHTS = {"w_cpu": 1.0, "w_ram": 1.5, "w_gpu": 0.5, "w_latency": 1.0, "w_io": 0.8}
WORKLOAD = {"cpu_req": 0.2, "ram_req_mb": 1024.0, "gpu_req": None, "max_latency_ms": 10.0, "io_tolerance": None}
OBJECT = {"hash": "abc123def456...", "size": 1048576}

README = [
    ("POST", "/register"),
    ("GET", "/nodes"),
    ("GET", "/node/{id}"),
    ("GET", "/node/{id}/stats"),
    ("POST", "/node/{id}/stats"),
    ("GET", "/placement/{hash}"),
    ("POST", "/schedule"),
    ("POST", "/scheduler/config"),
    ("POST", "/object/register"),
    ("GET", "/object/{hash}"),
    ("POST", "/replica/mark_missing"),
    ("POST", "/replica/mark_healed"),
    ("POST", "/da/post"),
    ("GET", "/da/metrics"),
    ("GET", "/da/routing"),
    ("GET", "/fallback/status"),
    ("GET", "/fallback/pending"),
    ("POST", "/fallback/reconcile"),
    ("GET", "/fallback/consistency"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/system/info"),
]
"""The summary table of the README, all 22."""


def test_every_route_of_the_readme_is_served() -> None:
    def anonymous(path: str) -> str:
        return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))

    assert len(README) == 22
    served = {(route.method, anonymous(route.path)) for route in ROUTES}
    assert {path for method, path in README if (method, anonymous(path)) not in served} == set()


def test_the_readme_s_requests_are_answered_as_it_prints() -> None:
    async def story(door: Door) -> None:
        async def says(method: str, path: str, body: Any, answer: Any) -> None:
            assert await door.ok(method, path, body) == answer, path

        node = {"id": "node-1", "zone": "zone-a", "addr": "10.0.0.1:50051", "capacity_gb": 100}
        await says("POST", "/register", node, {"ok": True})
        await says("GET", "/nodes", None, [{**node, "meta": {}}])
        await says("GET", "/node/node-1", None, {**node, "meta": {}})
        await says("POST", "/node/node-1/stats", STATS, {"ok": True, "node_id": "node-1"})
        await says("GET", "/node/node-1/stats", None, {"node_id": "node-1", "found": True, "stats": STATS})
        await says("GET", "/placement/abc123?rf=3", None, ["node-1"])
        await says("POST", "/schedule", WORKLOAD, {"node_id": "node-1"})
        configured = await door.ok("POST", "/scheduler/config", WEIGHTS)
        assert (configured["ok"], configured["message"]) == (True, "scheduler config updated")
        assert {name: configured["config"][name] for name in WEIGHTS} == WEIGHTS
        await says("POST", "/object/register", OBJECT, {"ok": True})
        await says("POST", "/replica/mark_healed", {"hash": OBJECT["hash"], "node_id": "node-1"}, {"ok": True})
        shown = await door.ok("GET", f"/object/{OBJECT['hash']}")
        assert {name: shown[name] for name in ("hash", "size", "replicas")} == {**OBJECT, "replicas": ["node-1"]}
        await says("POST", "/replica/mark_missing", {"hash": OBJECT["hash"], "node_id": "node-1"}, {"ok": True})
        assert (await door.ok("GET", f"/object/{OBJECT['hash']}"))["replicas"] == []
        assert (await door.ok("GET", "/health"))["status"]

    run(story)
