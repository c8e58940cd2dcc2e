"""Watching the log: ordered, complete, resumable; reads that want to see a position at least."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import Door, Lender, coordinator_door, run, seed_node
from weft.api.bodies.events import encode_event
from weft.client.watching import Watching
from weft.coordinator.watch import Place, parse_place
from weft.ledger import MemoryJournal
from weft.model.batch import SealedBatch
from weft.model.errors import InvalidField
from weft.model.events import NodeIncarnated
from weft.model.ids import Incarnation, NodeId, Position
from weft.model.policy import REQUEST_MS_MAX, WATCH_BATCHES_MAX, WATCH_QUIET_MS


class Watcher:
    """A caller of GET /events that is still connected: what came so far, and a way to leave."""

    def __init__(self, door: Door, target: str, headers: dict[str, str]) -> None:
        self.door = door
        path, _, query = target.partition("?")
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.text = ""
        self.ended = False
        self.stalled = asyncio.Event()
        self.stalled.set()
        self._left = asyncio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.stalled.wait()
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        self.text += message.get("body", b"").decode()
        self.ended = not message.get("more_body", False)

    def leave(self) -> None:
        self._left.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]

    @property
    def ids(self) -> list[str]:
        return [line[4:] for line in self.text.splitlines() if line.startswith("id: ")]


@asynccontextmanager
async def watching(door: Door, target: str = "/events", **headers: str) -> AsyncIterator[Watcher]:
    watcher = Watcher(door, target, {name.replace("_", "-"): value for name, value in headers.items()})
    task = asyncio.ensure_future(door.coordinator.app(watcher.scope, watcher.receive, watcher.send))  # type: ignore[arg-type]
    await door.settle()
    try:
        yield watcher
    finally:
        watcher.leave()
        await asyncio.wait_for(task, 5)


async def found(door: Door, *node_ids: int) -> None:
    await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(node_id) for node_id in node_ids]})


async def read(door: Door, target: str = "/events?follow=0", **headers: str) -> list[str]:
    """What a stream that does not stay holds, as ids and kinds."""
    answer = await door("GET", target, **headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = [block.splitlines() for block in answer.text.split("\n\n") if block]
    for kind, _, data in blocks:
        assert json.loads(data[6:])["kind"] == kind[7:]
    return [f"{line[4:]} {kind[7:]}" for kind, line, _ in blocks]


def test_the_whole_log_in_order_with_every_event_of_a_batch() -> None:
    async def story(door: Door) -> None:
        await found(door, 0, 1)
        await door.ok("DELETE", "/nodes/0")
        assert await read(door) == [
            "1.0 LedgerOpened",
            "1.1 TermOpened",
            "2.0 ClusterFounded",
            "2.1 NodeRegistered",
            "2.2 NodeRegistered",
            "3.0 NodeRemoved",
        ]

    run(story)


def test_a_stream_says_whose_it_is_and_where_the_log_stands_like_every_other_answer() -> None:
    async def story(door: Door) -> None:
        await found(door, 0)
        answer = await door("GET", "/events?follow=0", weft_request_id="mine-1", x_correlation_id="wish-7")
        assert answer.headers["x-correlation-id"] == "wish-7"
        assert answer.headers["weft-request-id"] == "mine-1"
        assert answer.headers["weft-position"] == "2"
        assert (await door("GET", "/events?follow=0")).headers["x-correlation-id"] not in ("", "wish-7")

    run(story)


@pytest.mark.parametrize(
    ("since", "ids"),
    [
        ("0", ["1.0", "1.1", "2.0", "2.1", "2.2", "3.0"]),
        ("1", ["2.0", "2.1", "2.2", "3.0"]),
        ("2", ["3.0"]),
        ("2.0", ["2.1", "2.2", "3.0"]),
        ("2.2", ["3.0"]),
        ("2.99", ["3.0"]),
        ("3", []),
    ],
)
def test_a_stream_begins_after_a_position_or_after_an_event_of_one(since: str, ids: list[str]) -> None:
    async def story(door: Door) -> None:
        await found(door, 0, 1)
        await door.ok("DELETE", "/nodes/0")
        assert [line.split()[0] for line in await read(door, f"/events?follow=0&from={since}")] == ids
        # A browser that reconnects keeps the query it began with and adds the id it saw last.
        resumed = await read(door, "/events?follow=0&from=0", last_event_id=since)
        assert [line.split()[0] for line in resumed] == ids

    run(story)


def test_an_event_says_where_it_stands_and_why_it_happened() -> None:
    async def story(door: Door) -> None:
        await found(door, 0)
        await door.ok("DELETE", "/nodes/0", weft_request_id="because")
        async with watching(door, "/events?from=2") as watcher:
            [event] = watcher.events
        assert event.pop("cause").startswith("because~")
        assert event == {
            "position": 3,
            "index": 0,
            "last": True,
            "sequence": 5,
            "at_ms": door.clock.now_ms(),
            "kind": "NodeRemoved",
            "event": {"type": "NodeRemoved", "node_id": "0"},
        }

    run(story)


def test_only_the_last_event_of_a_batch_is_its_last() -> None:
    async def story(door: Door) -> None:
        await found(door, 0, 1)
        async with watching(door, "/events?from=1") as watcher:
            assert [event["last"] for event in watcher.events] == [False, False, True]

    run(story)


def test_a_watcher_that_stays_is_told_of_what_comes() -> None:
    async def story(door: Door) -> None:
        async with watching(door, "/events?from=1") as first, watching(door) as second:
            assert first.status == 200
            await found(door, 0)
            await door.settle()
            assert first.ids == ["2.0", "2.1"]
            await door.ok("DELETE", "/nodes/0")
            await door.settle()
            assert first.ids == ["2.0", "2.1", "3.0"]
            assert second.ids == ["1.0", "1.1", *first.ids]
            assert not first.ended
        text = (await door("GET", "/metrics", accept="text/plain")).text
        assert "weft_watchers 0" in text
        assert "weft_events_streamed_total 8" in text

    run(story)


def test_a_stream_that_broke_anywhere_goes_on_without_a_gap_and_without_a_repeat() -> None:
    async def story(door: Door) -> None:
        await found(door, *range(5))
        for node_id in range(5):
            await door.ok("DELETE", f"/nodes/{node_id}")
        whole = await read(door)
        for cut in range(1, len(whole)):
            seen = whole[cut - 1].split()[0]
            assert whole[:cut] + await read(door, f"/events?follow=0&from={seen}") == whole

    run(story)


def test_a_log_longer_than_one_reading_is_complete_for_everybody_who_watches(tmp_path: Path) -> None:
    count = WATCH_BATCHES_MAX + 20

    async def story(door: Door) -> None:
        await found(door)
        for index in range(count):
            await door.ok("POST", "/nodes", seed_node(index))
        positions = [int(line.split(".")[0]) for line in await read(door)]
        assert sorted(set(positions)) == list(range(1, count + 3))
        async with watching(door, f"/events?from={count - 5}") as late, watching(door) as early:
            await door.ok("DELETE", "/nodes/0")
            # The journal is read in a thread of its own; wait for the news and not for a while.
            while len(early.ids) < count + 4 or len(late.ids) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert early.ids[-8:] == late.ids

    run(story, tmp_path)


def test_a_silent_stream_says_that_it_lives() -> None:
    async def story(door: Door) -> None:
        async with watching(door, "/events?from=1") as watcher:
            assert watcher.text == ""
            await door.pass_time(WATCH_QUIET_MS)
            await door.settle()
            assert watcher.text == ": still here\n\n"

    run(story)


def test_a_coordinator_that_stops_ends_its_streams() -> None:
    async def story(door: Door) -> None:
        async with watching(door, "/events?from=1") as watcher:
            door.coordinator.drain()
            await door.settle()
            assert watcher.ended

    run(story)


def test_a_caller_that_takes_nothing_holds_up_nobody() -> None:
    async def story(door: Door) -> None:
        async with watching(door, "/events?from=1") as stuck, watching(door, "/events?from=1") as brisk:
            stuck.stalled.clear()
            await found(door, 0)
            await door.ok("DELETE", "/nodes/0")
            await door.settle()
            assert brisk.ids == ["2.0", "2.1", "3.0"]
            assert stuck.ids == []
            stuck.stalled.set()
            await door.settle()
            assert stuck.ids == brisk.ids

    run(story)


class EagerJournal(MemoryJournal):
    """A journal that shows a batch to readers before its append has returned."""

    held: asyncio.Event | None = None

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        await super().append(sealed, expected_position)
        if self.held is not None:
            await self.held.wait()


def test_nobody_is_handed_what_is_still_being_appended() -> None:
    async def story() -> None:
        journal = EagerJournal()
        async with coordinator_door(journal) as door:
            await found(door, 0)
            journal.held = asyncio.Event()
            removing = asyncio.ensure_future(door.ok("DELETE", "/nodes/0"))
            await door.settle()
            assert await journal.tail() == 3
            async with watching(door) as watcher:
                before = watcher.ids
                journal.held.set()
                await removing
                await door.settle()
                assert before == ["1.0", "1.1", "2.0", "2.1"]
                assert watcher.ids == [*before, "3.0"]

    asyncio.run(story())


class CompactedJournal(MemoryJournal):
    """A journal whose beginning has been compacted away."""

    begins_at = 0

    async def oldest(self) -> Position:
        return Position(max(self.begins_at, await super().oldest()))


def test_a_position_that_was_compacted_is_answered_with_the_oldest_there_is() -> None:
    async def story() -> None:
        journal = CompactedJournal()
        async with coordinator_door(journal) as door:
            await found(door, 0)
            await door.ok("DELETE", "/nodes/0")
            journal.begins_at = 3
            for gone in ("0", "1", "1.5", "2.0"):
                answer = await door("GET", f"/events?from={gone}")
                assert (answer.status_code, answer.json()["code"]) == (410, "POSITION_COMPACTED")
                assert answer.json()["fields"] == {"from": int(gone[0]), "oldest": 3}
            assert await read(door, "/events?follow=0&from=2") == ["3.0 NodeRemoved"]

    asyncio.run(story())


def test_a_position_the_log_has_not_come_to_is_another_log_s() -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/events?from=7")
        assert (answer.status_code, answer.json()["code"]) == (409, "POSITION_AHEAD")
        assert answer.json()["fields"] == {"from": 7, "position": 1}

    run(story)


@pytest.mark.parametrize("query", ["from=x", "from=-1", "from=1.2.3", "from=1.", "follow=maybe", "since=1"])
def test_a_place_that_is_none_is_a_wrong_field(query: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", f"/events?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")

    run(story)


def test_watchers_are_bounded() -> None:
    async def story(door: Door) -> None:
        door.coordinator._watch._watchers_max = 1
        async with watching(door):
            answer = await door("GET", "/events?follow=0")
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert await read(door) != []

    run(story)


def test_places_are_spelled_as_ids_are() -> None:
    assert parse_place("17") == Place(Position(17))
    assert parse_place("17.2") == Place(Position(17), 2)
    for wrong in ("", ".", "1.", ".1", "²", "1" * 16):
        with pytest.raises(InvalidField):
            parse_place(wrong)


def test_a_read_waits_for_the_position_it_wants_to_see() -> None:
    async def story(door: Door) -> None:
        reading = asyncio.ensure_future(door("GET", "/cluster?at_least=2"))
        await door.settle()
        assert not reading.done()
        await found(door, 0)
        answer = await reading
        assert answer.status_code == 200
        assert int(answer.headers["weft-position"]) >= 2

    run(story)


def test_a_read_that_waited_too_long_is_told_where_the_log_is() -> None:
    async def story(door: Door) -> None:
        await found(door)
        reading = asyncio.ensure_future(door("GET", "/regions?at_least=9"))
        await door.settle()
        await door.pass_time(REQUEST_MS_MAX + 1)
        answer = await reading
        assert (answer.status_code, answer.json()["code"]) == (504, "NOT_REACHED")
        assert answer.json()["fields"] == {"position": 2, "at_least": 9}
        assert answer.json()["temporary"] is True

    run(story)


@pytest.mark.parametrize("target", ["/cluster", "/regions", "/endpoints", "/placement/k?rf=1", "/scheduler/config"])
def test_every_read_takes_a_position_beside_its_own_query(target: str) -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        mark = "&" if "?" in target else "?"
        assert (await door("GET", f"{target}{mark}at_least=1")).status_code == 200
        answer = await door("GET", f"{target}{mark}at_least=soon")
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")

    run(story)


def test_an_incarnation_goes_out_as_the_hex_digits_every_other_route_has() -> None:
    largest = (1 << 63) - 1

    async def story(door: Door) -> None:
        lender = Lender(door, "a", incarnation=largest)
        await door.found(lender)
        await door.ready_region("r", 1, lender)
        text = (await door("GET", "/events?follow=0")).text
        told = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
        begun = next(one["event"] for one in told if one["kind"] == "NodeIncarnated")
        members = (await door.ok("GET", "/cluster"))["members"]
        assert begun["incarnation"] == members[0]["incarnation"] == "7fffffffffffffff"
        assert str(largest) not in text
        planned = next(one for one in told if one["kind"] == "RegionPlanned")
        assert "7fffffffffffffff" in json.dumps(planned)
        watching = Watching()
        events = {info.kind: info for info in watching.feed(text.encode())}
        assert events["NodeIncarnated"].event == NodeIncarnated(node_id=NodeId("a"), incarnation=Incarnation(largest))
        assert json.loads(encode_event(events["RegionPlanned"])) == planned

    run(story)
