"""Writes of an outage, and the way home: the fallback takes them, the primary gets them in order, and writes go on."""

import asyncio

import pytest

from tests.coordinator.outages import E, P, S, outage, until
from tests.ledger.lab import INTERVAL_MS, KEY, POLICY, Lab, live
from weft.coordinator.app import Limits
from weft.core.state import state_digest
from weft.ledger.rebuild import Target, rebuild_from_layers
from weft.model.availability import ReconcilePolicy, Standing
from weft.model.errors import NoLayer, NotAvailableYet
from weft.testing.faults import Fault


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
