"""Beats: answered at once when there is news, kept while there is none, and dropped when nobody waits for them."""

import asyncio
import json
from typing import Any

import pytest

from tests.worlds import STRIPE, Door, Lender, run, seed_node, seed_tcp
from weft.coordinator.app import Limits
from weft.coordinator.writer import internal_cause
from weft.core.node import existing_node
from weft.model.commands import GiveUpNode
from weft.model.ids import NodeId
from weft.model.node import NodeStatus


async def kept(door: Door, lender: Lender) -> "asyncio.Task[Any]":
    """A beat that is waiting at the coordinator."""
    await lender.beat()
    task = asyncio.ensure_future(lender.beat(wait_ms=30_000))
    await door.settle()
    assert not task.done()
    assert door.coordinator._beats.waiting_count == 1
    return task


def test_a_beat_with_news_is_answered_at_once() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found()
        await door.ok("POST", "/nodes", seed_node("a"))
        reply = await asyncio.wait_for(lender.beat(wait_ms=30_000), 5)
        assert reply["cluster_name"] == "c"
        assert reply["generation"] > 0
        assert reply["extents"] == []

    run(story)


def test_a_beat_without_news_is_answered_after_the_time_it_asked_for() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await lender.beat()
        generation = lender.generation
        reply = await asyncio.wait_for(lender.beat(wait_ms=20), 5)
        assert reply["generation"] == generation

    run(story)


def test_a_node_that_is_given_up_while_its_beat_waits_is_back_before_the_answer() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        waiting = await kept(door, lender)
        writer = door.coordinator.writer
        # It was decided before the beat came, and is in the log only now.
        life = existing_node(writer.state, NodeId("a")).incarnation
        assert life is not None
        await writer.submit(GiveUpNode(node_id=NodeId("a"), incarnation=life), internal_cause("sweep"))
        assert existing_node(writer.state, NodeId("a")).status is NodeStatus.OFFLINE

        door.coordinator._beats.answer(NodeId("a"))
        await asyncio.wait_for(waiting, 5)
        assert existing_node(writer.state, NodeId("a")).status is NodeStatus.ONLINE

    run(story)


def test_a_waiting_beat_is_answered_when_a_region_is_planned() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        waiting = await kept(door, lender)
        region = await door.ok("POST", "/regions", {"name": "r", "size_bytes": 3 * STRIPE})
        (extent,) = (await asyncio.wait_for(waiting, 5))["extents"]
        assert extent == {
            "region_id": region["region_id"],
            "name": "r",
            "index": 0,
            "size_bytes": 3 * STRIPE,
            "generation": 1,
        }

    run(story)


def test_a_waiting_beat_is_answered_when_any_endpoint_changes() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ok("POST", "/nodes", seed_node("b"))
        waiting = await kept(door, lender)
        await door.ok("POST", "/nodes/b/endpoint", seed_tcp())
        await asyncio.wait_for(waiting, 5)

    run(story)


def test_a_waiting_beat_is_not_disturbed_by_what_is_not_its_business() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        waiting = await kept(door, lender)
        await door.ok("POST", "/nodes", seed_node("b"))
        await door.settle()
        assert not waiting.done()
        waiting.cancel()

    run(story)


def test_a_node_never_holds_two_beats() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        first = await kept(door, lender)
        second = asyncio.ensure_future(lender.beat(wait_ms=30_000))
        await asyncio.wait_for(first, 5)
        await door.settle()
        assert not second.done()
        assert door.coordinator._beats.waiting_count == 1
        second.cancel()

    run(story)


@pytest.mark.parametrize(("path", "code"), [("/nodes/a", "NODE_NOT_FOUND"), ("/cluster", "CLUSTER_NOT_FOUND")])
def test_a_waiting_beat_of_a_node_that_goes_is_told(path: str, code: str) -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await lender.beat()
        waiting = asyncio.ensure_future(door("POST", "/nodes/a/beat", lender.body(wait_ms=30_000)))
        await door.settle()
        await door.ok("DELETE", path)
        answer = await asyncio.wait_for(waiting, 5)
        assert (answer.status_code, answer.json()["code"]) == (404, code)

    run(story)


def test_another_life_is_refused_while_a_beat_of_this_one_waits() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await lender.beat()
        waiting = asyncio.ensure_future(door("POST", "/nodes/a/beat", lender.body(wait_ms=30_000)))
        await door.settle()
        refused = await door("POST", "/nodes/a/beat", lender.body() | {"incarnation": "00000000000000ff"})
        assert (refused.status_code, refused.json()["code"]) == (409, "INCARNATION_RETIRED")
        assert "is running already" in refused.json()["error"]
        assert not waiting.done()
        waiting.cancel()

    run(story)


def test_stopping_answers_every_waiting_beat_and_keeps_no_other() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        waiting = await kept(door, lender)
        door.coordinator.drain()
        await asyncio.wait_for(waiting, 5)
        await asyncio.wait_for(lender.beat(wait_ms=30_000), 5)

    run(story)


def test_a_beat_whose_caller_left_is_dropped() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await lender.beat()
        left = asyncio.Event()
        body = await _raw_beat(door, lender, left)
        await door.settle()
        assert door.coordinator._beats.waiting_count == 1
        left.set()
        await asyncio.wait_for(body, 5)
        assert door.coordinator._beats.waiting_count == 0

    run(story)


async def _raw_beat(door: Door, lender: Lender, left: asyncio.Event) -> "asyncio.Task[None]":
    """A waiting beat whose connection a test can close."""
    raw = json.dumps(lender.body(wait_ms=30_000)).encode()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": raw, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/nodes/a/beat",
        "query_string": b"",
        "headers": [],
    }
    return asyncio.ensure_future(door.coordinator.app(scope, receive, send))


def test_a_generation_no_log_of_ours_gave_out_counts_as_none() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        await door.ready_region("r", 2, lender)
        lender.generation = 10**9
        await door.ok("POST", "/nodes/a/beat", lender.body())
        assert not door.coordinator._beats.holds("a", 1)  # type: ignore[arg-type]

    run(story)


def test_a_node_that_comes_back_may_lend_otherwise() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a", lend_stripes=4)
        await door.found(lender)
        lender.restart()
        body = lender.body()
        body["observations"]["lend_bytes"] = 9 * STRIPE
        await door.ok("POST", "/nodes/a/beat", body)
        assert (await door.ok("GET", "/regions"))["lent_bytes"] == 9 * STRIPE

    run(story)


def test_a_node_is_silent_after_ten_seconds_and_not_while_its_beat_waits() -> None:
    async def story(door: Door) -> None:
        quiet, waiting = Lender(door, "quiet"), Lender(door, "waiting")
        await door.found(quiet, waiting)
        task = await kept(door, waiting)
        door.clock.advance(10_001)
        assert door.coordinator._beats.silent() == {"quiet"}
        listed = await door.ok("GET", "/regions")
        assert (listed["lent_bytes"], listed["free_bytes"]) == (64 * STRIPE, 64 * STRIPE)
        members = {member["node_id"]: member for member in (await door.ok("GET", "/cluster"))["members"]}
        assert members["quiet"]["last_beat_ms_ago"] == 10_001
        assert members["waiting"]["last_beat_ms_ago"] == 0
        task.cancel()

    run(story)


def test_a_lender_is_heard_again_after_a_restart_before_it_counts_as_silent(tmp_path: Any) -> None:
    async def before(door: Door) -> None:
        await door.found(Lender(door, "a"))

    async def after(door: Door) -> None:
        assert door.coordinator._beats.silent() == frozenset()
        door.clock.advance(10_001)
        assert door.coordinator._beats.silent() == {"a"}

    run(before, tmp_path)
    run(after, tmp_path)


def test_the_sweep_runs_by_itself() -> None:
    async def story(door: Door) -> None:
        await door.found(Lender(door, "a"))
        rows = door.coordinator.writer.state.nodes.values
        door.clock.advance(30_001)
        lost = door.coordinator._changes.until(lambda: not any(row.active for row in rows()), 60_000)
        assert await asyncio.wait_for(lost, 5)

    run(story, limits=Limits(sweep_ms=1))
