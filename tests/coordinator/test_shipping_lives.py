"""Shipping over several lives and several logs: nothing is put twice, forgotten, or taken for another's."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.coordinator.outages import QUICK, STILL, E, P, S, nothing_found, until
from tests.ledger.lab import CLUSTER, KEY, POLICY, Chance, Lab, live
from tests.worlds import node
from weft.coordinator.repeats import Cause
from weft.coordinator.writer import Writer
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layer import commit_to
from weft.ledger.layers import MemoryLayer
from weft.model.availability import Standing
from weft.model.batch import seal
from weft.model.errors import NoLayer, NotAvailableYet
from weft.model.ids import Position, RequestId
from weft.telemetry import Log, Metrics
from weft.testing.faults import Fault


def test_what_was_committed_and_not_shipped_is_found_again_after_a_kill(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        lab.primary.is_down = True
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        await lab.kill()
        lab.primary.is_down = False
        await lab.serve()
        await lab.register(1)
        await lab.availability.board.until(lambda now: now.unshipped == 0)
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))

    live(story, directory=tmp_path)


@pytest.mark.parametrize("lost", ["nothing", "the notes"])
def test_a_restart_puts_nothing_twice_and_forgets_nothing(tmp_path: Path, lost: str) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        for number in range(30):
            await lab.register(number)
        lab.primary.is_down = True
        for number in range(30, 40):
            await lab.register(number)
        await lab.kill()
        if lost == "the notes":
            lab.directory = None
        puts = {role: len(layer._blobs) for role, layer in lab.layers.items()}
        await lab.serve()
        assert lab.standing is (Standing.DEGRADED if lost == "nothing" else Standing.WARNING)
        lab.primary.is_down = False
        await lab.availability.board.until(lambda now: now.standing is Standing.HEALTHY and now.unshipped == 0)
        await lab.register(40)
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1)), "whole and in order"
        assert lab.availability.pending.count == 0
        if lost == "nothing":
            assert len(lab.positions(S)) <= puts[S] + 2
            # The layer keeps a blob once whoever asks; what counts is how often it was asked.
            assert lab.availability.layers[P].counts.post_count <= 14

    live(story, directory=tmp_path)


def test_a_batch_that_too_few_validators_have_is_not_taken_for_kept_by_the_next_life(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        await lab.availability.shipper._note()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        # As a quorum does when one of four has it: it can be read there, and the put failed.
        lab.layers[S].fails_after, lab.layers[S].latency_ms = Fault.lasting(), 10
        lab.layers[S].scan = nothing_found  # type: ignore[method-assign]
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        tail = await lab.journal.tail()
        assert tail in lab.positions(S)
        await lab.kill()
        await lab.serve(POLICY, QUICK)
        with pytest.raises((NotAvailableYet, NoLayer)):
            await lab.register(1)
        assert lab.availability.shipper.shipped < tail
        lab.layers[S].fails_after = None
        await until(lab, Standing.DEGRADED)
        await lab.register(1)
        assert tail in {one.position for one in await lab.availability.pending.read(0, 100)}

    live(story, roles=[P, S], directory=tmp_path)


def test_a_start_in_the_middle_of_an_outage_goes_on_with_it(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.is_down = True
        await lab.register(1)
        await lab.kill()
        await lab.serve()
        assert (lab.standing, lab.availability.board.now.pending > 0) == (Standing.DEGRADED, True)
        began_s = lab.loop.time()
        await lab.register(2)
        assert lab.loop.time() - began_s < 0.5, "nobody counts to three again"
        lab.primary.is_down = False
        await until(lab, Standing.HEALTHY)
        now = lab.availability.board.now
        assert (now.failover_count, now.reconciliation_count) == (1, 1)

    live(story, directory=tmp_path)


def test_a_stopped_coordinator_ships_what_it_committed_before_it_ends(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.latency_ms = 500
        writing = asyncio.ensure_future(lab.register(1))
        await asyncio.sleep(0.1)
        coordinator, lab.coordinator = lab.coordinator, None  # type: ignore[assignment]
        lab.availability, availability = None, lab.availability  # type: ignore[assignment]
        await coordinator.stop()
        assert (await writing).position == availability.shipper.shipped == await lab.journal.tail()

    live(story, directory=tmp_path)


def test_another_disk_reads_the_primary_through_and_puts_nothing_again(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        for number in range(150):
            await lab.register(number)
        await lab.kill()
        lab.directory = None
        await lab.serve()
        await lab.register(150)
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1))
        counts = lab.availability.layers[P].counts
        assert (counts.post_count, counts.get_count) == (2, 1), "the term and the write, and what was not seen yet"

    live(story, directory=tmp_path)


def test_another_batch_in_the_primary_at_the_place_of_ours_does_not_count_as_shipped() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        for number in range(150):
            await lab.register(number)
        wrapped = lab.wrapped
        await lab.kill()
        lab.layers[P] = MemoryLayer(lab.clock, Chance("another primary"))
        for sealed in await lab.journal.read(Position(0), 1_000):
            batch = sealed.batch
            rival = seal(msgspec.structs.replace(batch, at_ms=batch.at_ms + 1))
            await lab.primary.put(wrapped(rival if batch.position > 2 else sealed))
        await lab.serve()
        await lab.register(150)
        held, log = set(lab.kept(P)), await lab.journal.read(Position(0), 1_000)
        assert [sealed.batch.position for sealed in log if commit_to(wrapped(sealed)) not in held] == []

    live(story)


@pytest.mark.parametrize("count", [3, 150])
def test_a_deposed_writer_ships_nothing_until_it_reigns_again_and_then_what_is_missing(count: int) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        await lab.register(1)
        writer, wrapped = lab.coordinator.writer, lab.wrapped
        counts, shipped = lab.availability.layers[P].counts, lab.positions(P)
        posted = counts.post_count
        log = Log(lab.log, lab.clock.now_ms)
        other = Writer(lab.journal, lab.clock, Chance("other"), frozenset, log, Metrics())
        await other.open("other")
        running = asyncio.ensure_future(other.run())
        for number in range(count):
            await other.submit(node(f"other-{number}"), Cause(RequestId(f"other-{number}"), named=True))
        running.cancel()
        writer.doubt()
        await asyncio.sleep(60)
        assert not writer.reigns
        tail = await lab.journal.tail()
        assert (writer.state.marks.position, lab.positions(P)) == (tail, shipped), "it follows, and ships nothing"
        theirs = await lab.journal.read(Position(len(shipped)), count - 1)
        for sealed in theirs:
            await lab.primary.put(wrapped(sealed))
        assert await writer.begin_term("again")
        lab.coordinator._on_begun()
        await lab.register(2)
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1))
        assert counts.post_count - posted == tail - len(shipped) - len(theirs), "what another shipped is not put again"

    live(story)


def test_a_pending_batch_of_a_log_that_was_given_up_never_reaches_the_primary(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        await lab.register(1)
        (sealed,) = await lab.journal.read(Position(1), 1)
        other = seal(msgspec.structs.replace(sealed.batch, at_ms=sealed.batch.at_ms + 1))
        blob = lab.wrapped(other)
        await lab.layers[E].put(blob)
        pending = lab.availability.pending
        for commitment, position in ((commit_to(blob), Position(2)), ("ab" * 32, Position(1_000))):
            await pending.add(commitment, E, 0, len(blob), position)
        await lab.tick("xxxxxx")
        await lab.register(2)
        await lab.tick("......")
        await lab.availability.board.until(lambda now: now.pending == now.stuck)
        assert commit_to(blob) not in lab.kept(P)
        assert [one.position for one in await pending.read(0, 10, is_stuck=True)] == [2, 1_000]
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1)), "what is ours came home, and is written on behind it"

    live(story, directory=tmp_path)


def test_another_clusters_batches_are_none_of_ours() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        for number in range(150):
            await lab.register(number)
        await lab.kill()
        lab.layers[P] = MemoryLayer(lab.clock, Chance("another primary"))
        for sealed in await lab.journal.read(Position(0), 1_000):
            await lab.primary.put(wrap(KEY, CLUSTER, Kind.BATCH, sealed.batch.position, sealed.body))
        await lab.serve()
        await lab.register(150)
        held, log = set(lab.kept(P)), await lab.journal.read(Position(0), 1_000)
        assert [sealed.batch.position for sealed in log if commit_to(lab.wrapped(sealed)) not in held] == []

    live(story)


def test_a_primary_that_hangs_does_not_hold_up_the_start() -> None:
    async def story(lab: Lab) -> None:
        lab.primary.latency_ms = 10**9
        began_s = lab.loop.time()
        await lab.serve(POLICY.__class__(interval_ms=60_000))
        assert lab.loop.time() - began_s < 1.0
        lab.primary.latency_ms = 0
        await lab.availability.monitor.look(P)
        assert 'weft_layer_requests{role="primary",kind="health_check"} 2' in lab.coordinator.metrics.text()

    live(story)
