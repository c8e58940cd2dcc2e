"""Regions and attachments through the whole coordinator: planned, backed, attached, taken over, damaged, gone."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import SECRET, STRIPE, Door, Lender, run
from weft.model.attachment import Mode, Right
from weft.model.grant import grant_key, verify

ATTACH = "/regions/r/attachments"


def exclusive(holder: str = "me", **more: Any) -> dict[str, Any]:
    return {"mode": "exclusive", "holder": holder, **more}


def test_a_region_is_ready_once_every_lender_says_so() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        planned = await door.ok("POST", "/regions", {"name": "r", "size_bytes": 5 * STRIPE + 1})
        assert (planned["state"], planned["size_bytes"], planned["reserved_bytes"]) == (
            "planned",
            5 * STRIPE + 1,
            6 * STRIPE,
        )
        await first.catch_up()
        assert (await door.ok("GET", "/regions/r"))["state"] == "planned"
        await second.catch_up()
        ready = await door.ok("GET", "/regions/r")
        assert ready["state"] == "ready"
        assert ready["layout"] == {
            "generation": 1,
            "stripe_bytes": STRIPE,
            "bands": [
                {
                    "first_stripe": 0,
                    "stripes": 6,
                    "extents": [
                        {"index": 0, "stripes": 3, "replicas": [{"node_id": "a", "incarnation": "00000000000000a1"}]},
                        {"index": 1, "stripes": 3, "replicas": [{"node_id": "b", "incarnation": "00000000000000a1"}]},
                    ],
                }
            ],
        }

    run(story)


def test_whoever_waits_for_a_region_is_told_when_it_is_ready() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ok("POST", "/regions", {"name": "r", "size_bytes": STRIPE})
        waiting = asyncio.ensure_future(door.ok("GET", "/regions/r?wait_ms=30000"))
        region = await door.during(waiting, lender)
        assert region["state"] == "ready"

    run(story)


def test_whoever_waits_too_long_is_told_how_it_stands() -> None:
    async def story(door: Door) -> None:
        await door.found(Lender(door, "a"))
        await door.ok("POST", "/regions", {"name": "r", "size_bytes": STRIPE})
        region = await door.during(door.ok("GET", "/regions/r?wait_ms=500"))
        assert region["state"] == "planned"

    run(story)


def test_a_lender_that_cannot_fails_the_region_with_its_reason() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ok("POST", "/regions", {"name": "r", "size_bytes": STRIPE})
        await lender.beat()
        lender.failing = "memory is gone"
        await lender.beat()
        region = await door.ok("GET", "/regions/r")
        assert (region["state"], region["error"]) == ("failed", "node a: memory is gone")
        answer = await door("POST", ATTACH, exclusive())
        assert (answer.status_code, answer.json()["code"]) == (409, "REGION_NOT_READY")

    run(story)


def test_too_much_is_refused_with_what_there_is() -> None:
    async def story(door: Door) -> None:
        await door.found(Lender(door, "a", lend_stripes=2), Lender(door, "b", lend_stripes=1))
        answer = await door("POST", "/regions", {"name": "r", "size_bytes": 4 * STRIPE})
        assert answer.status_code == 409
        refusal = answer.json()
        assert refusal["code"] == "CAPACITY_EXCEEDED"
        assert refusal["fields"] == {"wanted_bytes": 4 * STRIPE, "free_bytes": 3 * STRIPE}
        assert "weft node --lend" in refusal["error"]

    run(story)


@pytest.mark.parametrize("size", [0, -1, 1.5, "1GiB", None, 2**53])
def test_a_size_is_a_positive_number_of_bytes(size: Any) -> None:
    async def story(door: Door) -> None:
        await door.found()
        assert (await door("POST", "/regions", {"name": "r", "size_bytes": size})).status_code == 422

    run(story)


def test_attaching_brings_a_grant_the_lenders_can_check_and_the_way_to_them() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        region = await door.ready_region("r", 2, lender)
        opened = await door.during(door.ok("POST", ATTACH, exclusive()), lender)
        grant = verify(base64.b64decode(opened["grant"]), grant_key(SECRET), door.clock.now_ms())
        cluster = await door.ok("GET", "/cluster")
        assert grant.cluster_id.hex() == cluster["cluster_id"]
        assert (grant.region_id, grant.mode, grant.holder) == (region["region_id"], Mode.EXCLUSIVE, "me")
        assert grant.rights == Right.READ | Right.WRITE
        assert grant.generation == opened["generation"] == 1
        assert grant.expires_at_ms == opened["expires_at_ms"]
        assert opened["endpoints"]["a"]["tcp_port"] == 50051
        assert opened["region"]["attachments"] == [
            {"attachment_id": opened["attachment_id"], "mode": "exclusive", "holder": "me", "generation": 1}
        ]

    run(story)


def test_attaching_waits_until_every_lender_knows_the_generation() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 2, first, second)
        attaching = asyncio.ensure_future(door.ok("POST", ATTACH, exclusive()))
        for lender in (first, second):
            await door.settle()
            assert not attaching.done()
            await lender.catch_up()
        assert (await asyncio.wait_for(attaching, 5))["generation"] == 1

    run(story)


def test_a_lender_that_does_not_answer_is_named_and_the_attachment_taken_back() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 2, first, second)
        answer = await door.during(door("POST", ATTACH, exclusive()), first)
        assert answer.status_code == 503
        refusal = answer.json()
        assert (refusal["code"], refusal["temporary"], refusal["fields"]) == ("LENDER_SILENT", True, {"nodes": ["b"]})
        assert (await door.ok("GET", "/regions/r"))["attachments"] == []

    run(story)


def test_a_lender_silent_for_long_is_not_waited_for() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 2, first, second)
        door.clock.advance(10_001)
        await first.beat()
        opened = await door.during(door.ok("POST", ATTACH, exclusive()), first)
        assert opened["generation"] == 1

    run(story)


def test_a_takeover_fences_the_old_holder_off_at_every_lender() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        old = await door.during(door.ok("POST", ATTACH, exclusive("old")), lender)
        refusal = await door("POST", ATTACH, exclusive("new"))
        assert (refusal.status_code, refusal.json()["code"]) == (409, "ATTACHMENT_CONFLICT")
        assert "old" in refusal.json()["error"]
        new = await door.during(door.ok("POST", ATTACH, exclusive("new", takeover=True)), lender)
        assert new["generation"] > old["generation"]
        assert lender.extents[0]["generation"] == new["generation"]
        renewal = await door("POST", f"{ATTACH}/{old['attachment_id']}/renew")
        assert (renewal.status_code, renewal.json()["code"]) == (404, "ATTACHMENT_NOT_FOUND")

    run(story)


def test_a_sealed_region_is_read_by_many() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        assert (await door("POST", ATTACH, {"mode": "read", "holder": "x"})).json()["code"] == "REGION_NOT_SEALED"
        assert (await door.ok("POST", "/regions/r/seal"))["sealed"] is True
        assert (await door.ok("POST", "/regions/r/seal", {}))["sealed"] is True
        assert (await door("POST", ATTACH, exclusive())).json()["code"] == "REGION_SEALED"
        for holder, mode in (("x", "read"), ("y", "private")):
            opened = await door.during(door.ok("POST", ATTACH, {"mode": mode, "holder": holder}), lender)
            grant = verify(base64.b64decode(opened["grant"]), grant_key(SECRET), door.clock.now_ms())
            assert grant.rights == Right.READ
        assert len((await door.ok("GET", "/regions/r"))["attachments"]) == 2

    run(story)


def test_shared_is_not_there_yet_and_says_what_is() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        answer = await door("POST", ATTACH, {"mode": "shared", "holder": "x"})
        assert (answer.status_code, answer.json()["code"]) == (409, "NOT_YET")
        assert "use exclusive, or seal and read" in answer.json()["error"]

    run(story)


def test_a_renewed_lease_lasts_and_a_forgotten_one_lapses() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        opened = await door.during(door.ok("POST", ATTACH, exclusive()), lender)
        door.clock.advance(3_000_000)
        renewed = await door.ok("POST", f"{ATTACH}/{opened['attachment_id']}/renew")
        assert renewed["expires_at_ms"] == door.clock.now_ms() + 3_600_000
        verify(base64.b64decode(renewed["grant"]), grant_key(SECRET), door.clock.now_ms() + 3_599_999)
        door.clock.advance(3_599_999)
        await door.coordinator.sweep.look()
        assert len((await door.ok("GET", "/regions/r"))["attachments"]) == 1
        door.clock.advance(1)
        await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/regions/r"))["attachments"] == []

    run(story)


def test_detaching_opens_the_region_for_the_next() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        opened = await door.during(door.ok("POST", ATTACH, exclusive()), lender)
        closing = f"{ATTACH}/{opened['attachment_id']}"
        assert await door.ok("DELETE", closing) == {"status": "detached", "attachment_id": opened["attachment_id"]}
        assert (await door("DELETE", closing)).status_code == 404
        again = await door.during(door.ok("POST", ATTACH, exclusive("next")), lender)
        assert again["generation"] == 2

    run(story)


def test_a_lender_that_comes_back_as_another_damages_the_region_and_it_can_still_be_attached() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 4, first, second)
        first.restart()
        reply = await first.beat()
        assert reply["extents"] == []
        region = await door.ok("GET", "/regions/r")
        assert (region["state"], region["lost_extents"]) == ("damaged", [0])
        opened = await door.during(door.ok("POST", ATTACH, exclusive()), first, second)
        assert opened["region"]["lost_extents"] == [0]

    run(story)


def test_a_deleted_region_is_gone_when_every_living_lender_released_it() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 4, first, second)
        assert await door.ok("DELETE", "/regions/r") == {"status": "deleting", "name": "r"}
        assert await door.ok("DELETE", "/regions/r") == {"status": "deleting", "name": "r"}
        await first.catch_up()
        assert (await door.ok("GET", "/regions/r"))["state"] == "deleting"
        assert (await door("POST", ATTACH, exclusive())).json()["code"] == "REGION_NOT_READY"
        await second.catch_up()
        assert (await door("GET", "/regions/r")).status_code == 404
        assert (await door.ok("GET", "/regions"))["free_bytes"] == 128 * STRIPE

    run(story)


def test_a_lender_that_died_does_not_keep_a_region_from_going() -> None:
    async def story(door: Door) -> None:
        first, second = Lender(door, "a"), Lender(door, "b")
        await door.found(first, second)
        await door.ready_region("r", 4, first, second)
        await door.ok("DELETE", "/regions/r")
        await first.catch_up()
        door.clock.advance(10_001)
        await first.beat()
        await door.coordinator.sweep.look()
        assert (await door("GET", "/regions/r")).status_code == 404
        assert await door.coordinator.sweep.look() == 0

    run(story)


def test_a_region_in_use_is_deleted_by_force_only() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        await door.during(door.ok("POST", ATTACH, exclusive()), lender)
        answer = await door("DELETE", "/regions/r")
        assert (answer.status_code, answer.json()["code"]) == (409, "REGION_IN_USE")
        await door.ok("DELETE", "/regions/r?force=1")

    run(story)


def test_a_restart_keeps_regions_attachments_and_fences(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    async def before(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        kept["opened"] = await door.during(door.ok("POST", ATTACH, exclusive()), lender)
        kept["region"] = await door.ok("GET", "/regions/r")

    async def after(door: Door) -> None:
        assert await door.ok("GET", "/regions/r") == kept["region"]
        renewed = await door.ok("POST", f"{ATTACH}/{kept['opened']['attachment_id']}/renew")
        assert renewed["expires_at_ms"] == door.clock.now_ms() + 3_600_000
        lender = Lender(door, "a")
        reply = await lender.beat()
        assert [extent["generation"] for extent in reply["extents"]] == [1]
        assert (await door("POST", ATTACH, exclusive("other"))).status_code == 409

    run(before, tmp_path)
    run(after, tmp_path)
