"""The storage seed's routes of data availability, with the seed's own bodies, and what goes wrong at each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.ledger.lab import ALL, Chance
from tests.worlds import Door, FakeClock, coordinator_door
from weft.ledger.layer import LayerHealth, commit_to
from weft.ledger.layers import MemoryLayer
from weft.model.availability import AvailabilityPolicy, Role
from weft.model.errors import PendingFailed
from weft.model.policy import LAYER_BLOB_BYTES_MAX
from weft.testing.faults import Fault

HELLO = "68656c6c6f20776f726c64"
COMMITMENT = "644bcc7e564373040999aac89e7622f3ca71fba1d972fd94a31c3bfbf24e3938"
STILL = AvailabilityPolicy(interval_ms=10**9)
P, S, E = Role.PRIMARY, Role.SECONDARY, Role.EMERGENCY


class Scene:
    """A coordinator with three layers in memory, which the test looks at by hand."""

    def __init__(self, door: Door, layers: dict[Role, MemoryLayer]) -> None:
        self.door, self.layers = door, layers
        self.availability = door.coordinator.availability

    async def outage(self) -> None:
        async with asyncio.timeout(10):
            await self.availability.board.until(lambda now: now.unshipped == 0)
        self.layers[P].is_down = True
        for _ in range(3):
            await self.availability.monitor.look(P)

    async def comes_back(self) -> None:
        self.layers[P].is_down = False
        for _ in range(2):
            await self.availability.monitor.look(P)

    async def settles(self) -> None:
        async with asyncio.timeout(10):
            await self.availability.board.until(lambda now: now.standing.value == "healthy")


def play(story: Callable[[Scene], Awaitable[None]], roles: tuple[Role, ...] = ALL) -> None:
    async def tell() -> None:
        clock = FakeClock()
        layers = {role: MemoryLayer(clock, Chance(role)) for role in roles}
        async with coordinator_door(layers=layers, availability=STILL) as door:
            await story(Scene(door, layers))

    asyncio.run(tell())


def shape(body: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in body.items()}


def test_the_seeds_blob_is_posted_and_read_back_by_its_commitment() -> None:
    async def story(scene: Scene) -> None:
        posted = await scene.door.ok("POST", "/da/post", {"data_hex": HELLO})
        assert posted == {"success": True, "commitment": COMMITMENT, "height": posted["height"]}
        assert posted["height"] >= 1
        for spelled in (COMMITMENT, COMMITMENT.upper()):
            found = await scene.door.ok("GET", f"/da/blob/{spelled}")
            assert found == {"commitment": COMMITMENT, "size_bytes": 11, "data_hex": HELLO}
        again = await scene.door.ok("POST", "/da/post", {"data_hex": HELLO})
        assert again == posted, "the same bytes are the same blob"

    play(story)


@pytest.mark.parametrize("data", ["6", "6g", "zz", "0x68", "68 65", "é"])
def test_what_is_not_hexadecimal_is_400(data: str) -> None:
    async def story(scene: Scene) -> None:
        answer = await scene.door("POST", "/da/post", {"data_hex": data})
        assert answer.status_code == 400
        body = answer.json()
        assert (set(body), body["success"], body["code"]) == ({"success", "error", "code"}, False, "BAD_HEX")

    play(story)


def test_a_blob_at_the_cap_is_taken_and_one_byte_more_is_413() -> None:
    async def story(scene: Scene) -> None:
        await scene.door.ok("POST", "/da/post", {"data_hex": "00" * LAYER_BLOB_BYTES_MAX})
        answer = await scene.door("POST", "/da/post", {"data_hex": "00" * (LAYER_BLOB_BYTES_MAX + 1)})
        assert (answer.status_code, answer.json()["success"]) == (413, False)

    play(story)


def test_with_no_layer_configured_or_usable_a_post_is_503_at_once() -> None:
    async def unconfigured() -> None:
        async with coordinator_door() as door:
            answer = await door("POST", "/da/post", {"data_hex": HELLO})
            assert (answer.status_code, answer.json()["code"]) == (503, "DA_UNAVAILABLE")
            assert "USE_MOCK_DA" in answer.json()["error"]
            assert (await door("GET", f"/da/blob/{COMMITMENT}")).status_code == 503
            assert (await door("POST", "/fallback/reconcile")).status_code == 503
            assert (await door.ok("GET", "/da/metrics"))["available"] is False
            assert await door.ok("GET", "/fallback/pending") == []
            assert (await door("GET", "/ready")).status_code == 200
            info = await door.ok("GET", "/system/info")
            assert (info["da_state"], info["routing_state"], info["fallback_active"]) == (None, "primary", False)

    asyncio.run(unconfigured())

    async def unusable(scene: Scene) -> None:
        await scene.outage()
        answer = await scene.door("POST", "/da/post", {"data_hex": HELLO})
        assert (answer.status_code, answer.json()["code"]) == (503, "DA_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        write = await scene.door("POST", "/cluster", {"name": "c"})
        assert (write.status_code, write.json()["code"]) == (503, "DA_UNAVAILABLE")

    play(unusable, (P,))


@pytest.mark.parametrize("commitment", ["abc", "x" * 64, "0" * 63])
def test_what_is_no_commitment_is_400_and_what_nobody_has_is_404(commitment: str) -> None:
    async def story(scene: Scene) -> None:
        assert (await scene.door("GET", f"/da/blob/{commitment}")).status_code == 400
        answer = await scene.door("GET", f"/da/blob/{'0' * 64}")
        assert (answer.status_code, answer.json()["code"]) == (404, "DA_BLOB_NOT_FOUND")

    play(story)


def test_the_bodies_are_the_seeds() -> None:
    async def story(scene: Scene) -> None:
        door = scene.door
        await door.ok("POST", "/da/post", {"data_hex": HELLO})
        metrics = await door.ok("GET", "/da/metrics")
        assert list(metrics) == [
            "available",
            "post_count",
            "get_count",
            "error_count",
            "health_check_count",
            "retry_count",
            "avg_post_latency_us",
            "avg_get_latency_us",
        ]
        assert (metrics["available"], metrics["error_count"], metrics["health_check_count"]) == (True, 0, 1)
        assert await door.ok("GET", "/da/routing") == {
            "current_state": "primary",
            "primary_healthy": True,
            "secondary_healthy": True,
            "emergency_healthy": True,
            "fallback_active": False,
            "pending_reconcile": 0,
        }
        assert await door.ok("GET", "/fallback/status") == {
            "current_status": "primary_healthy",
            "fallback_active": False,
            "fallback_reason": None,
            "pending_reconcile_count": 0,
            "last_fallback_at": None,
        }
        assert await door.ok("POST", "/fallback/reconcile") == {
            "success": True,
            "blobs_processed": 0,
            "blobs_reconciled": 0,
            "blobs_failed": 0,
            "duration_ms": 0,
            "errors": [],
        }
        report = await door.ok("GET", "/fallback/consistency")
        assert shape(report) == {
            "is_consistent": bool,
            "items_verified": int,
            "inconsistencies_found": int,
            "details": list,
            "verified_at": int,
        }
        assert report["is_consistent"] is True
        health = await door.ok("GET", "/health")
        assert (health["status"], health["da_available"], health["da_health"]) == (
            "healthy (routing: primary)",
            True,
            "Ok(Healthy)",
        )
        assert {"post_count", "get_count"} <= set(health["metrics"])
        assert (await door("GET", "/ready")).status_code == 200
        info = await door.ok("GET", "/system/info")
        assert {name: info[name] for name in ("node_count", "da_status", "routing_state", "fallback_active")} == {
            "node_count": 0,
            "da_status": "Ok(Healthy)",
            "routing_state": "primary",
            "fallback_active": False,
        }

    play(story)


def test_an_outage_in_the_seeds_bodies_from_its_beginning_to_its_end() -> None:
    async def story(scene: Scene) -> None:
        door = scene.door
        await scene.outage()
        routing = await door.ok("GET", "/da/routing")
        assert (routing["current_state"], routing["primary_healthy"], routing["fallback_active"]) == (
            "secondary",
            False,
            True,
        )
        await door.ok("POST", "/da/post", {"data_hex": HELLO})
        (pending,) = await door.ok("GET", "/fallback/pending")
        assert pending == {
            "blob_id": COMMITMENT,
            "source_da": "secondary",
            "target_da": "primary",
            "stored_at": door.clock.now_ms(),
            "retry_count": 0,
            "last_error": None,
        }
        status = await door.ok("GET", "/fallback/status")
        assert (status["current_status"], status["pending_reconcile_count"]) == ("fallback_secondary", 1)
        assert status["last_fallback_at"] == door.clock.now_ms()
        assert status["fallback_reason"] == "the primary is out"
        refused = await door("POST", "/fallback/reconcile")
        assert (refused.status_code, refused.json()["code"]) == (409, "DA_PRIMARY_UNHEALTHY")
        report = await door.ok("GET", "/fallback/consistency")
        assert report["is_consistent"] is False
        assert any(detail.startswith(COMMITMENT) for detail in report["details"])
        await scene.comes_back()
        await scene.settles()
        assert await door.ok("GET", "/fallback/pending") == []
        assert (await door.ok("GET", "/fallback/consistency"))["is_consistent"] is True

    play(story)


def test_a_corrupted_blob_is_named_by_the_report() -> None:
    async def story(scene: Scene) -> None:
        await scene.outage()
        await scene.door.ok("POST", "/da/post", {"data_hex": HELLO})
        await scene.comes_back()
        await scene.settles()
        scene.layers[P].damage(commit_to(b"hello world"), b"hello w0rld")
        report = await scene.door.ok("GET", "/fallback/consistency")
        assert (report["is_consistent"], report["inconsistencies_found"]) == (False, 1)
        assert report["details"][0].startswith(COMMITMENT)

    play(story)


def test_errors_are_counted_in_a_report_that_is_still_200() -> None:
    async def story(scene: Scene) -> None:
        await scene.outage()
        for number in range(3):
            await scene.door.ok("POST", "/da/post", {"data_hex": f"{number:02x}"})
        scene.layers[P].is_down = False
        scene.layers[P].fails_before = Fault.lasting()
        for _ in range(2):
            await scene.availability.monitor.look(P)
        report = await scene.door.ok("POST", "/fallback/reconcile")
        assert (report["success"], report["blobs_reconciled"]) == (False, 0)
        assert report["blobs_processed"] == report["blobs_failed"] == len(report["errors"]) == 3
        scene.layers[P].fails_before.mend()
        assert (await scene.door.ok("POST", "/fallback/reconcile"))["success"] is True

    play(story)


def test_a_reconciliation_that_cannot_begin_is_500_in_the_seeds_shape() -> None:
    async def story(scene: Scene) -> None:
        async def broken(*_: object, **__: object) -> None:
            raise PendingFailed("the disk is gone", path="x")

        scene.availability.pending.read = broken
        answer = await scene.door("POST", "/fallback/reconcile")
        body = answer.json()
        assert (answer.status_code, body["error"]) == (500, "reconciliation_failed")
        assert "the disk is gone" in body["message"]
        assert body["report"]["processed"] == 0

    play(story)


def test_writes_are_answered_with_their_position_when_no_layer_has_them_in_time() -> None:
    async def story(scene: Scene) -> None:
        scene.availability.shipper._available_ms_max = 50
        await scene.door.ok("POST", "/cluster", {"name": "c"})
        scene.layers[P].is_down = True
        answer = await scene.door("POST", "/register", {"id": "n", "zone": "a", "addr": "10.0.0.1:1"})
        assert (answer.status_code, answer.json()["code"]) == (504, "DA_NOT_AVAILABLE_YET")
        assert answer.json()["fields"]["position"] == int(answer.headers["weft-position"])
        scene.layers[P].is_down = False
        async with asyncio.timeout(5):
            await scene.availability.board.until(lambda now: now.unshipped == 0)
        await scene.door.ok("POST", "/register", {"id": "n", "zone": "a", "addr": "10.0.0.1:1"})

    play(story)


def test_wefts_own_route_shows_positions_layers_and_the_list() -> None:
    async def story(scene: Scene) -> None:
        await scene.outage()
        await scene.door.ok("POST", "/cluster", {"name": "c"})
        ledger = await scene.door.ok("GET", "/ledger")
        assert ledger["committed_position"] == ledger["available_position"] == 2
        assert (ledger["da_state"], ledger["failover_count"]) == ("degraded", 1)
        assert [(one["role"], one["is_active"], one["health"]) for one in ledger["layers"]] == [
            ("primary", False, "unavailable"),
            ("secondary", True, "healthy"),
            ("emergency", False, "healthy"),
        ]
        page = await scene.door.ok("GET", "/ledger/pending")
        assert (page["pending"], page["stuck"], [one["position"] for one in page["blobs"]]) == (1, 0, [2])
        assert (await scene.door.ok("GET", "/ledger/pending?stuck=true"))["blobs"] == []
        assert (await scene.door("GET", "/ledger/pending?limit=0")).status_code == 422

    play(story)


def test_more_blobs_than_fit_at_once_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.coordinator.layerdoors.BLOBS_AT_ONCE_MAX", 2)

    async def story(scene: Scene) -> None:
        scene.layers[P].latency_ms = 200
        posts = [scene.door("POST", "/da/post", {"data_hex": f"{number:02x}"}) for number in range(3)]
        assert sorted(answer.status_code for answer in await asyncio.gather(*posts)) == [200, 200, 503]

    play(story)


def test_ready_follows_the_layer_that_takes_writes() -> None:
    async def story(scene: Scene) -> None:
        for role, health, ready in ((P, "degraded", 503), (P, "unavailable", 503), (P, "healthy", 200)):
            scene.availability.board.observe(role, LayerHealth(health))
            assert (await scene.door("GET", "/ready")).status_code == ready
        await scene.outage()
        assert (await scene.door("GET", "/ready")).status_code == 200, "a healthy fallback takes writes"

    play(story)
