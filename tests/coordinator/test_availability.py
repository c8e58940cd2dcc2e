"""What an answer to a write means where layers keep the log: available, committed, or that nothing happened."""

import asyncio
from pathlib import Path

import pytest

from tests.coordinator.outages import QUICK, STILL, E, P, S, until
from tests.ledger.lab import INTERVAL_MS, POLICY, KeptJournal, Lab, live
from tests.worlds import coordinator_door, node, seed_node
from weft.coordinator.shipping import Shipper
from weft.ledger.layer import LayerHealth
from weft.model.availability import Acknowledgement, Standing
from weft.model.batch import SealedBatch
from weft.model.commands import DrainNode
from weft.model.errors import BatchTooLarge, NoLayer, NotAvailableYet, Unavailable
from weft.model.ids import NodeId, Position
from weft.testing.faults import Fault


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
