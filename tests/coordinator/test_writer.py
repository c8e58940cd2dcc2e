"""The writer: batches, repeats, bounds, and what it does when the journal says no."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import Door, coordinator_door, run, seed_node
from weft.coordinator.app import Limits
from weft.coordinator.writer import internal_cause
from weft.ledger import Journal, MemoryJournal
from weft.model.batch import Batch, Entry, SealedBatch, seal
from weft.model.commands import OpenTerm
from weft.model.errors import JournalDamaged, JournalFailed
from weft.model.events import NodeRemoved, TermOpened
from weft.model.ids import NodeId, Position, Term


class Wrapped:
    """A journal with a fault in it: a port wrapped, so that every journal can be given the same faults."""

    def __init__(self, inner: Journal) -> None:
        self.inner = inner
        self.fails_before = 0
        self.fails_after = 0
        self.deaf = False
        self.gate: asyncio.Event | None = None
        self.appended: list[SealedBatch] = []

    @property
    def batch_bytes_max(self) -> int:
        return self.inner.batch_bytes_max

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.fails_before:
            self.fails_before -= 1
            raise JournalFailed("the disk is full", path="journal")
        await self.inner.append(sealed, expected_position)
        self.appended.append(sealed)
        if self.fails_after:
            self.fails_after -= 1
            raise JournalFailed("the answer was lost", path="journal")

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        if self.deaf:
            raise JournalFailed("the disk is gone", path="journal")
        return await self.inner.read(after, count_max)

    async def oldest(self) -> Position:
        return await self.inner.oldest()

    async def tail(self) -> Position:
        return await self.inner.tail()

    async def trim(self, before: Position) -> None:
        await self.inner.trim(before)

    async def close(self) -> None:
        await self.inner.close()


def test_commands_that_wait_together_share_a_batch() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            before = len(journal.appended)
            requests = [asyncio.ensure_future(door.ok("POST", "/nodes", seed_node(number))) for number in range(40)]
            await door.settle()
            journal.gate.set()
            await asyncio.gather(*requests)
            assert len(journal.appended) - before <= 2
            assert (await door.ok("GET", "/cluster"))["nodes"] == 40

    asyncio.run(story())


def test_nobody_sees_what_is_not_committed() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            first = asyncio.ensure_future(door("POST", "/nodes", seed_node(0)))
            second = asyncio.ensure_future(door("POST", "/nodes", seed_node(0)))
            await door.settle()
            assert (await door.ok("GET", "/cluster"))["nodes"] == 0
            assert not second.done()
            journal.gate.set()
            assert [(await first).status_code, (await second).status_code] == [200, 400]

    asyncio.run(story())


def test_a_batch_the_journal_refused_leaves_nothing_behind() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.fails_before = 1
            answer = await door("POST", "/nodes", seed_node(0))
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
            assert answer.headers["retry-after"] == "1"
            assert (await door.ok("GET", "/cluster"))["nodes"] == 0
            await door.ok("POST", "/nodes", seed_node(0))

    asyncio.run(story())


def test_a_batch_whose_answer_was_lost_is_found_in_the_log_and_answered() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.fails_after = 1
            assert (await door.ok("POST", "/nodes", seed_node(0)))["cluster_nodes"] == 1

    asyncio.run(story())


def test_an_unreadable_tail_leaves_the_caller_to_try_again() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.fails_after, journal.deaf = 1, True
            answer = await door("POST", "/nodes", seed_node(0), weft_request_id="r1")
            assert answer.status_code == 503
            journal.deaf = False
            assert (await door.ok("POST", "/nodes", seed_node(0), weft_request_id="r1"))["status"] == "joined"
            assert (await door.ok("GET", "/cluster"))["nodes"] == 1

    asyncio.run(story())


def test_a_slow_journal_is_not_waited_for_longer_than_a_request_may_take() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal, Limits(append_ms_max=10, sweep_ms=3_600_000)) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            answer = await door("POST", "/nodes", seed_node(0), weft_request_id="r1")
            assert answer.status_code == 503
            journal.gate.set()
            assert (await door.ok("POST", "/nodes", seed_node(0), weft_request_id="r1"))["status"] == "joined"

    asyncio.run(story())


def test_what_waits_behind_a_journal_that_does_not_answer_is_answered_in_time_too() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal, Limits(append_ms_max=20, sweep_ms=3_600_000)) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            async with asyncio.timeout(5):
                for number in range(3):
                    request = f"r{number}"
                    answer = await door("POST", "/nodes", seed_node(number), weft_request_id=request)
                    assert answer.status_code == 503
            journal.gate.set()
            for number in range(3):
                await door.ok("POST", "/nodes", seed_node(number), weft_request_id=f"r{number}")
            assert (await door.ok("GET", "/cluster"))["nodes"] == 3

    asyncio.run(story())


def test_a_batch_of_another_writer_is_followed_and_ours_decided_again() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
            await journal.inner.append(foreign(door, NodeRemoved(node_id=NodeId("0"))), Position(2))
            assert (await door("DELETE", "/nodes/0")).status_code == 404
            await door.ok("POST", "/nodes", seed_node(0))

    asyncio.run(story())


def test_a_writer_that_learns_of_a_newer_term_stops() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            await journal.inner.append(foreign(door, TermOpened(term=Term(2), writer="other"), term=2), Position(2))
            answer = await door("POST", "/nodes", seed_node(0))
            assert answer.status_code == 503
            assert await journal.inner.tail() == 3
            assert (await door("POST", "/nodes", seed_node(0))).status_code == 503
            assert (await door.ok("GET", "/health"))["status"] == "unavailable"

    asyncio.run(story())


def foreign(door: Door, event: Any, term: int = 1) -> SealedBatch:
    """A batch by another publisher at the next position."""
    state = door.coordinator.writer.state
    assert state.ledger is not None
    return seal(
        Batch(
            cluster_id=state.ledger.cluster_id,
            term=Term(term),
            publisher="other",
            position=Position(state.marks.position + 1),
            parent=state.marks.log_digest,
            at_ms=0,
            entries=(Entry(sequence=1, cause="other", event=event),),
        )
    )


def test_a_repeated_request_gets_its_first_answer() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"}, weft_request_id="r1")
        await door.ok("POST", "/cluster", {"name": "c"}, weft_request_id="r1")
        first = await door.ok("POST", "/nodes", seed_node(0), weft_request_id="r2")
        position = door.coordinator.writer.state.marks.position
        assert await door.ok("POST", "/nodes", seed_node(0), weft_request_id="r2") == first
        assert door.coordinator.writer.state.marks.position == position

    run(story)


def test_an_id_that_is_used_for_something_else_is_no_repeat() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"}, weft_request_id="trace")
        await door.ok("POST", "/nodes", seed_node(0), weft_request_id="trace")
        await door.ok("POST", "/nodes", seed_node(1), weft_request_id="trace")
        assert (await door.ok("GET", "/cluster"))["nodes"] == 2

    run(story)


def test_requests_repeated_at_the_same_time_are_one() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        answers = await asyncio.gather(
            *(door.ok("POST", "/nodes", seed_node(0), weft_request_id="r1") for _ in range(5))
        )
        assert [answer["status"] for answer in answers] == ["joined"] * 5

    run(story)


def test_a_repeat_is_known_after_a_restart(tmp_path: Path) -> None:
    async def before(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"}, weft_request_id="r1")

    async def after(door: Door) -> None:
        assert (await door.ok("POST", "/cluster", {"name": "c"}, weft_request_id="r1"))["status"] == "created"
        assert (await door("POST", "/cluster", {"name": "c"}, weft_request_id="r2")).status_code == 400

    run(before, tmp_path)
    run(after, tmp_path)


def test_a_caller_that_left_does_not_take_others_answers_along() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            first = asyncio.ensure_future(door("POST", "/nodes", seed_node(0), weft_request_id="r1"))
            second = asyncio.ensure_future(door("POST", "/nodes", seed_node(0), weft_request_id="r1"))
            await door.settle()
            first.cancel()
            await door.settle()
            journal.gate.set()
            assert (await second).status_code == 200

    asyncio.run(story())


def test_only_what_this_process_appended_is_counted(tmp_path: Path) -> None:
    async def counted(door: Door) -> None:
        assert "weft_batches_total 1\n" in door.coordinator.metrics.text()
        await door("POST", "/cluster", {"name": "c"})

    run(counted, tmp_path)
    run(counted, tmp_path)


def test_a_node_that_goes_while_its_first_beat_is_decided_is_not_remembered() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
            journal.gate = asyncio.Event()
            beat = {"incarnation": "00000000000000a1", "generation": 0}
            requests = [
                door("POST", "/nodes", seed_node(1)),
                door("POST", "/nodes/0/beat", beat),
                door("DELETE", "/nodes/0"),
            ]
            tasks = []
            for request in requests:
                tasks.append(asyncio.ensure_future(request))
                await door.settle()
            journal.gate.set()
            answers = [await task for task in tasks]
            assert [answer.status_code for answer in answers] == [200, 404, 200]
            assert dict(door.coordinator._beats.heard) == {}

    asyncio.run(story())


def test_a_full_queue_says_so_at_once() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal())
        async with coordinator_door(journal, Limits(queue_max=3, sweep_ms=3_600_000)) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            first = asyncio.ensure_future(door("POST", "/nodes", seed_node(0)))
            await door.settle()
            requests = [asyncio.ensure_future(door("POST", "/nodes", seed_node(number))) for number in range(1, 6)]
            await door.settle()
            refused = [request.result() for request in requests if request.done()]
            assert [answer.json()["code"] for answer in refused] == ["UNAVAILABLE"] * 2
            journal.gate.set()
            answers = await asyncio.gather(first, *requests)
            assert sum(answer.status_code == 200 for answer in answers) == 4

    asyncio.run(story())


def test_every_start_begins_a_term(tmp_path: Path) -> None:
    async def term_is(expected: int, door: Door) -> None:
        ledger = door.coordinator.writer.state.ledger
        assert ledger is not None
        assert ledger.term == expected

    for expected in (1, 2, 3):
        run(partial(term_is, expected), tmp_path)


def test_a_damaged_log_is_not_begun_on() -> None:
    async def story() -> None:
        inner = MemoryJournal()
        async with coordinator_door(Wrapped(inner)) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            inner._rows[0] = inner._rows[0]._replace(body=b"x" + inner._rows[0].body)
            rows = list(inner._rows)
        spoiled = MemoryJournal()
        spoiled._rows = rows
        with pytest.raises(JournalDamaged) as damage:
            async with coordinator_door(spoiled):
                pass
        assert damage.value.position == 1

    asyncio.run(story())


def test_a_stopping_writer_answers_what_waits_and_takes_no_more() -> None:
    async def story(door: Door) -> None:
        writer = door.coordinator.writer
        waiting = asyncio.ensure_future(writer.submit(OpenTerm(writer="x"), internal_cause("test")))
        await asyncio.sleep(0)
        writer.close()
        assert (await waiting).events == (TermOpened(term=Term(2), writer="x"),)
        assert (await door("POST", "/cluster", {"name": "c"})).status_code == 503

    run(story)


def test_a_batch_too_large_for_the_journal_is_written_as_several() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal(batch_bytes_max=4_000))
        async with coordinator_door(journal) as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            journal.gate = asyncio.Event()
            before = len(journal.appended)
            requests = [asyncio.ensure_future(door.ok("POST", "/nodes", seed_node(number))) for number in range(60)]
            await door.settle()
            journal.gate.set()
            await asyncio.gather(*requests)
            assert (await door.ok("GET", "/cluster"))["nodes"] == 60
            written = journal.appended[before:]
            assert len(written) > 3
            assert all(len(sealed.body) <= 4_000 for sealed in written)

    asyncio.run(story())


def test_one_command_too_large_for_the_journal_is_refused_and_the_next_is_taken() -> None:
    async def story() -> None:
        journal = Wrapped(MemoryJournal(batch_bytes_max=4_000))
        async with coordinator_door(journal) as door:
            nodes = [seed_node(number) for number in range(60)]
            answer = await door("POST", "/cluster", {"name": "c", "nodes": nodes})
            assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
            assert "4000" in answer.json()["detail"]
            await door.ok("POST", "/cluster", {"name": "c", "nodes": nodes[:3]})

    asyncio.run(story())
