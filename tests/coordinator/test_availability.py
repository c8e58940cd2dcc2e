"""What an answer to a write means where layers keep the log: available, committed, or that nothing happened."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.ledger.lab import CLUSTER, INTERVAL_MS, KEY, POLICY, Chance, KeptJournal, Lab, live
from tests.worlds import coordinator_door, node, seed_node
from weft.coordinator.app import Limits
from weft.coordinator.repeats import Cause
from weft.coordinator.shipping import Shipper
from weft.coordinator.writer import Writer
from weft.core.state import state_digest
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layer import Cursor, LayerHealth, Scan, commit_to
from weft.ledger.layers import MemoryLayer
from weft.ledger.rebuild import Target, rebuild_from_layers
from weft.model.availability import Acknowledgement, AvailabilityPolicy, ReconcilePolicy, Role, Standing
from weft.model.batch import SealedBatch, seal
from weft.model.commands import DrainNode
from weft.model.errors import BatchTooLarge, NoLayer, NotAvailableYet, Unavailable
from weft.model.ids import NodeId, Position, RequestId
from weft.telemetry import Log, Metrics
from weft.testing.faults import Fault

P, S, E = Role.PRIMARY, Role.SECONDARY, Role.EMERGENCY
STILL = POLICY.__class__(interval_ms=10**9)
QUICK = Limits(sweep_ms=3_600_000, available_ms_max=2_000, append_ms_max=1_000)


async def nothing_found(after: Cursor, count_max: int) -> Scan:
    return Scan(kept=[], after=after, is_end=True)


async def until(lab: Lab, standing: Standing) -> None:
    await lab.availability.board.until(lambda now: now.standing is standing)


def test_what_comes_at_once_and_no_layer_would_take_at_once_is_shipped_as_several_batches() -> None:
    async def story(lab: Lab) -> None:
        lab.primary.blob_bytes_max = 4_000  # type: ignore[misc]
        await lab.serve()
        await lab.found()
        await asyncio.gather(*(lab.register(number) for number in range(60)))
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1))
        assert max(len(blob) for _, blob in lab.primary._blobs) <= 4_000
        with pytest.raises(BatchTooLarge, match="ask for less"):
            await lab.write(node("n" * 4_000), "too much")
        await lab.register(60)
        assert lab.positions(P)[-1] == tail + 1

    live(story)


def test_a_batch_a_layer_refuses_is_told_of_once() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        lab.primary.blob_bytes_max = 100  # type: ignore[misc]
        lab.availability.shipper.__class__ = type("Old", (Shipper,), {"batch_bytes_max": 2**20})
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        told = [line for line in lab.log.getvalue().splitlines() if "did not take a blob" in line]
        assert len(told) == 1
        assert "at most 100 bytes" in told[0]

    live(story, roles=[P])


def test_without_a_layer_nothing_is_shipped_and_an_answer_waits_for_the_journal() -> None:
    async def story() -> None:
        async with coordinator_door() as door:
            await door.ok("POST", "/cluster", {"name": "c"})
            assert door.coordinator.availability is None
            ledger = await door.ok("GET", "/ledger")
            assert (ledger["acknowledgement"], ledger["layers"], ledger["da_state"]) == ("committed", [], None)
            assert ledger["available_position"] == ledger["committed_position"] > 0

    asyncio.run(story())


def test_a_write_is_answered_when_the_layer_has_its_batch() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        lab.primary.latency_ms = 500
        began_s = lab.loop.time()
        await lab.found()
        answer = await lab.register(1)
        assert lab.loop.time() - began_s >= 1.0
        assert lab.positions(P) == list(range(1, answer.position + 1)), "every batch, the first ones too, in order"

    live(story)


def test_with_no_layer_that_takes_a_write_it_is_refused_at_once_and_nothing_happened() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL)
        await lab.found()
        await lab.tick("xxx")
        position, began_s = lab.coordinator.writer.state.marks.position, lab.loop.time()
        with pytest.raises(NoLayer):
            await lab.register(1)
        assert (lab.loop.time(), await lab.journal.tail()) == (began_s, position)
        assert list(lab.coordinator.writer.state.nodes.values()) == []

    live(story, roles=[P])


def test_what_is_committed_and_in_no_layer_in_time_is_told_with_its_position_and_becomes_available_later() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        lab.primary.is_down = True
        with pytest.raises(NotAvailableYet) as refusal:
            await lab.register(1)
        assert refusal.value.position == await lab.journal.tail()
        assert lab.availability.shipper.shipped == refusal.value.position - 1
        assert [found.node_id for found in lab.coordinator.writer.state.nodes.values()] == ["n1"], "it did happen"
        # Asked again under its id it is still not available, whatever the window of repeats remembers.
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        lab.primary.is_down = False
        assert (await lab.register(1)).position == refusal.value.position
        assert lab.positions(P)[-1] == refusal.value.position

    live(story)


def test_a_repeat_of_what_happened_is_answered_while_no_layer_takes_a_write() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        first = await lab.register(1)
        lab.primary.is_down = True
        with pytest.raises(NotAvailableYet) as refusal:
            await lab.register(2)
        await lab.tick("xxx")
        with pytest.raises(NoLayer):
            await lab.register(3)
        assert await lab.register(1) == first
        with pytest.raises(NotAvailableYet) as again:
            await lab.register(2)
        assert again.value.position == refusal.value.position == await lab.journal.tail()

    live(story, roles=[P])


def test_a_repeat_of_what_an_append_committed_late_is_never_told_that_nothing_happened() -> None:
    class Late(KeptJournal):
        """Takes longer over one batch than anybody waits."""

        late_s = 0.0

        async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
            await asyncio.sleep(self.late_s)
            await super().append(sealed, expected_position)

    async def story(lab: Lab) -> None:
        lab.journal = Late()
        await lab.serve(STILL, QUICK)
        await lab.found()
        lab.primary.is_down = True
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        lab.journal.late_s = 3.0
        with pytest.raises(Unavailable, match="may still commit"):
            await lab.register(2)
        tail = await lab.journal.tail()
        with pytest.raises(NotAvailableYet) as refusal:
            await lab.register(2)
        assert refusal.value.position == await lab.journal.tail() == tail + 1

    live(story, roles=[P, S])


def test_an_answer_that_nothing_had_to_be_done_for_waits_for_what_it_rests_on() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        await lab.register(1)
        lab.primary.is_down = True
        drain = DrainNode(node_id=NodeId("n1"))
        for request in ("first", "second"):
            with pytest.raises(NotAvailableYet):
                await lab.write(drain, request)
        tail = await lab.journal.tail()
        lab.primary.is_down = False
        assert (await lab.write(drain, "third")).position == tail == lab.positions(P)[-1]

    live(story)


def test_while_batches_wait_for_a_layer_further_writes_are_not_committed() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(STILL, QUICK)
        await lab.found()
        lab.primary.is_down = True
        outcomes = []
        for number in range(4):
            try:
                await lab.register(number)
            except (NotAvailableYet, NoLayer) as error:
                outcomes.append(type(error))
        assert outcomes == [NotAvailableYet, NotAvailableYet, NoLayer, NoLayer]
        assert len(list(lab.coordinator.writer.state.nodes.values())) == 2, "what was refused did not happen"

    live(story)


def test_writes_of_an_outage_wait_until_the_fallback_takes_them() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.is_down = True
        began_s = lab.loop.time()
        await asyncio.gather(*(lab.register(number) for number in range(50)))
        assert lab.loop.time() - began_s <= 3 * INTERVAL_MS / 1_000 + 1.0
        assert lab.positions(S)
        assert lab.availability.pending.count == len(lab.positions(S))

    live(story)


def test_after_an_outage_the_primary_holds_the_whole_log_in_order() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        for number in range(60):
            if number == 10:
                lab.primary.is_down = True
            if number == 40:
                lab.primary.is_down = False
            await lab.register(number)
            await asyncio.sleep(0.3)
        await until(lab, Standing.HEALTHY)
        await lab.register(60)
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))
        assert (await lab.availability.compare()).details == ()

    live(story)


def test_writes_go_on_while_a_long_list_comes_home_and_stay_behind_it() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        for number in range(100):
            await lab.register(number)
        lab.primary.is_down = False
        lab.primary.latency_ms = 30
        await until(lab, Standing.RECOVERING)
        written = 100
        waits = []
        while lab.standing is Standing.RECOVERING:
            began_s = lab.loop.time()
            await lab.register(written)
            waits.append(lab.loop.time() - began_s)
            written += 1
        assert written >= 105, "they did not wait for the whole of it"
        assert max(waits) < 3.0
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))

    live(story)


@pytest.mark.parametrize("count", [8, 40])
def test_writes_are_answered_in_time_while_a_list_comes_home_to_a_slow_primary(count: int) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(POLICY.__class__(interval_ms=5_000))
        await lab.found()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        for number in range(count):
            await lab.register(number)
        lab.primary.is_down, lab.primary.latency_ms = False, 700
        await until(lab, Standing.RECOVERING)
        waits = []
        while lab.standing is Standing.RECOVERING:
            began_s = lab.loop.time()
            await lab.register(count + len(waits))
            waits.append(lab.loop.time() - began_s)
        assert max(waits) < 12.0
        assert len(waits) >= count // 3
        assert sorted(set(lab.positions(P))) == list(range(1, await lab.journal.tail() + 1))

    live(story, roles=[P, S])


def test_without_a_fallback_a_write_waits_for_its_turn_and_not_for_the_whole_list() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        for number in range(100):
            await lab.register(number)
        lab.primary.is_down, lab.layers[S].is_down = False, True
        lab.primary.latency_ms = 200
        await until(lab, Standing.RECOVERING)
        written, waits = 100, []
        while lab.standing is Standing.RECOVERING:
            began_s = lab.loop.time()
            await lab.register(written)
            waits.append(lab.loop.time() - began_s)
            written += 1
        assert written > 130
        assert max(waits) < 8.0, "a hundred blobs take a minute"
        assert sorted(lab.positions(P)) == list(range(1, await lab.journal.tail() + 1))
        target = Target()
        await rebuild_from_layers([lab.primary], (KEY.public,), target, lambda _: None)
        assert state_digest(target.state).hex() == lab.digest()

    live(story, roles=[P, S])


def test_a_list_that_does_not_come_home_has_writes_refused_in_time_and_none_waits_unanswered() -> None:
    async def story(lab: Lab) -> None:
        policy = POLICY.__class__(interval_ms=INTERVAL_MS, reconcile=ReconcilePolicy(max_retries=100))
        await lab.serve(policy, Limits(sweep_ms=3_600_000))
        await lab.found()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        for number in range(20):
            await lab.register(number)
        lab.primary.is_down, lab.layers[S].is_down = False, True
        lab.primary.fails_before = Fault.lasting()
        await until(lab, Standing.RECOVERING)
        outcomes = []
        for number in range(4):
            began_s = lab.loop.time()
            with pytest.raises((NoLayer, NotAvailableYet)) as refusal:
                await lab.register(20 + number)
            outcomes.append((type(refusal.value), lab.loop.time() - began_s <= 26.0))
        assert outcomes == [(NotAvailableYet, True)] * 2 + [(NoLayer, True)] * 2
        lab.primary.fails_before.mend()
        await until(lab, Standing.HEALTHY)
        await lab.register(30)
        assert sorted(lab.positions(P)) == list(range(1, await lab.journal.tail() + 1))

    live(story, roles=[P, S])


async def outage(lab: Lab, policy: AvailabilityPolicy = POLICY) -> None:
    """Six writes that only the emergency layer took."""
    await lab.serve(policy)
    await lab.found()
    lab.primary.is_down = True
    await until(lab, Standing.EMERGENCY)
    for number in range(6):
        await lab.register(number)


def test_pending_batches_whose_fallback_is_gone_come_home_from_the_journal_and_a_posted_blob_holds_no_write() -> None:
    async def story(lab: Lab) -> None:
        await outage(lab)
        await lab.post(b"hello world")
        lab.layers[E].is_down, lab.primary.is_down = True, False
        await until(lab, Standing.RECOVERING)
        began_s = lab.loop.time()
        await lab.register(6)
        assert lab.loop.time() - began_s < 1.0
        tail = await lab.journal.tail()
        assert lab.positions(P) == list(range(1, tail + 1))
        (left,) = await lab.availability.pending.read(0, 10)
        assert left.position is None, "the journal does not have it, so it waits for its fallback"
        lab.layers[E].is_down = False
        await lab.availability.reconciler.reconcile()
        await until(lab, Standing.HEALTHY)

    live(story, roles=[P, E])


@pytest.mark.parametrize("fallback", ["there", "gone"])
def test_where_a_person_reconciles_writes_go_on_until_one_does(fallback: str) -> None:
    async def story(lab: Lab) -> None:
        reconcile = ReconcilePolicy(auto=False)
        await outage(lab, POLICY.__class__(interval_ms=INTERVAL_MS, reconcile=reconcile))
        lab.layers[E].is_down, lab.primary.is_down = fallback == "gone", False
        await until(lab, Standing.RECOVERING)
        await asyncio.sleep(2 * INTERVAL_MS / 1_000)
        began_s = lab.loop.time()
        await lab.register(6)
        assert lab.loop.time() - began_s < 1.0
        assert (await lab.journal.tail() in lab.positions(P)) is (fallback == "gone")
        lab.layers[E].is_down = False
        await lab.availability.reconciler.reconcile()
        await until(lab, Standing.HEALTHY)
        assert sorted(lab.positions(P)) == list(range(1, await lab.journal.tail() + 1))

    live(story, roles=[P, E])


def test_acknowledged_when_committed_needs_no_layer_and_ships_all_the_same() -> None:
    async def story(lab: Lab) -> None:
        policy = POLICY.__class__(interval_ms=INTERVAL_MS, acknowledgement=Acknowledgement.COMMITTED)
        lab.primary.is_down = True
        await lab.serve(policy)
        await lab.found()
        began_s = lab.loop.time()
        for number in range(20):
            await lab.register(number)
        assert lab.loop.time() - began_s < 1.0
        assert lab.availability.board.now.unshipped == await lab.journal.tail()
        lab.primary.is_down = False
        await lab.availability.board.until(lambda now: now.unshipped == 0 and now.standing is Standing.HEALTHY)
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))

    live(story, roles=[P])


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


def test_an_unwritable_list_during_an_outage_acknowledges_nothing(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(POLICY, QUICK)
        await lab.found()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        lab.availability.pending._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(NotAvailableYet):
            await lab.register(1)
        lab.availability.pending._connection.execute("PRAGMA query_only = OFF")
        await lab.register(1)

    live(story, directory=tmp_path)


def test_a_journal_that_cannot_be_read_for_a_while_delays_shipping_and_loses_nothing() -> None:
    async def story(lab: Lab) -> None:
        await lab.serve()
        await lab.found()
        lab.primary.fails_before = Fault.after(0)
        await lab.register(1)
        assert lab.positions(P) == list(range(1, await lab.journal.tail() + 1))

    live(story)


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


def test_health_of_every_standing_in_the_seeds_words() -> None:
    words = {}

    async def story() -> None:
        async with coordinator_door(layers=Lab(None, roles=[P, S, E]).layers, availability=STILL) as door:
            board = door.coordinator.availability.board
            for role, health in (
                (P, "healthy"),
                (P, "unavailable"),
                (P, "unavailable"),
                (P, "unavailable"),
                (S, "unavailable"),
                (E, "unavailable"),
                (P, "healthy"),
                (P, "healthy"),
            ):
                board.observe(role, LayerHealth(health))
                status = await door.ok("GET", "/fallback/status")
                told = await door.ok("GET", "/health")
                ready = await door("GET", "/ready")
                words[told["da_state"]] = (
                    status["current_status"],
                    told["status"],
                    told["da_health"],
                    ready.status_code,
                )
            await door.found()
            assert (await door.ok("POST", "/nodes", seed_node(1)))["cluster_nodes"] == 1

    asyncio.run(story())
    assert words == {
        "healthy": ("primary_healthy", "healthy (routing: primary)", "Ok(Healthy)", 200),
        "warning": ("primary_degraded", "degraded (routing: primary)", "Ok(Unavailable)", 503),
        "degraded": ("fallback_secondary", "degraded (routing: secondary)", "Ok(Healthy)", 200),
        "emergency": ("fallback_emergency", "degraded (routing: emergency)", "Ok(Healthy)", 200),
        "unavailable": ("unavailable", "unavailable", "Ok(Unavailable)", 503),
        "recovering": ("primary_degraded", "degraded (routing: primary)", "Ok(Healthy)", 200),
    }
