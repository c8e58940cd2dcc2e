"""Outages from end to end, in virtual time: where blobs go, what is pending, and how it comes home."""

import asyncio

import pytest

from tests.ledger.lab import INTERVAL_MS, POLICY, Lab, live
from weft.ledger.layer import Commitment, LayerHealth, commit_to
from weft.model.availability import ReconcilePolicy, Role, Standing
from weft.model.errors import BlobMissing, LayerFailed, LayerUnknown, NoLayer, PendingFailed, PrimaryUnhealthy
from weft.testing.faults import Fault

P, S, E = Role.PRIMARY, Role.SECONDARY, Role.EMERGENCY
STILL = POLICY.__class__(interval_ms=10**9)
"""Nobody looks but the test."""


def blobs(count: int) -> list[bytes]:
    return [f"blob {number}".encode() for number in range(count)]


async def until(lab: Lab, standing: Standing) -> None:
    await lab.availability.board.until(lambda now: now.standing is standing)


def test_while_the_primary_is_well_blobs_go_there_and_nothing_is_pending() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch()
        assert await lab.post(b"hello world") is P
        assert lab.kept(P) == ["644bcc7e564373040999aac89e7622f3ca71fba1d972fd94a31c3bfbf24e3938"]
        assert (lab.kept(S), lab.kept(E), lab.availability.pending.count) == ([], [], 0)

    live(story)


def test_three_good_ten_bad_and_twenty_good_checks_are_one_failover_and_one_reconciliation() -> None:
    # The original reconciled never at a recovery threshold of two, and its list was empty in any case.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        assert await lab.tick("...") == [Standing.HEALTHY] * 3
        assert (await lab.tick("x" * 10))[2:] == [Standing.DEGRADED] * 8
        for blob in blobs(3):
            assert await lab.post(blob) is S
        assert (availability.board.now.pending, availability.pending.count) == (3, 3)
        assert (await lab.tick("..")) == [Standing.DEGRADED, Standing.RECOVERING]
        await until(lab, Standing.HEALTHY)
        assert set(await lab.tick("." * 18)) == {Standing.HEALTHY}
        now = availability.board.now
        assert (now.failover_count, now.reconciliation_count, now.pending) == (1, 1, 0)
        assert lab.kept(P) == [commit_to(blob) for blob in blobs(3)]

    live(story)


def test_an_outage_that_never_reached_the_threshold_reconciles_nothing() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xx." * 20)
        assert (availability.board.now.failover_count, availability.board.now.reconciliation_count) == (0, 0)

    live(story)


def test_it_is_healthy_only_once_everything_is_home() -> None:
    # The original's "only after reconciliation" was a line in its log.
    async def story(lab: Lab) -> None:
        await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(2):
            await lab.post(blob)
        lab.primary.fails_before = Fault.lasting()
        await lab.tick(".." + "." * 50)
        assert lab.standing is Standing.RECOVERING
        lab.primary.fails_before.mend()
        await until(lab, Standing.HEALTHY)
        assert lab.kept(P) == [commit_to(blob) for blob in blobs(2)]

    live(story)


def test_what_a_fallback_took_is_on_the_list_before_it_is_acknowledged() -> None:
    # The original called what adds to its list in its tests and nowhere else.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        listed = []
        add = availability.pending.add

        async def slow_add(*arguments: object, **named: object) -> None:
            await asyncio.sleep(1.0)
            await add(*arguments, **named)  # type: ignore[arg-type]
            listed.append(lab.loop.time())

        availability.pending.add = slow_add  # type: ignore[method-assign]
        await lab.post(b"one")
        assert listed == [lab.loop.time()]

    live(story)


def test_a_blob_whose_entry_cannot_be_written_is_not_acknowledged() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        availability.pending._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(PendingFailed):
            await lab.post(b"one")

    live(story)


def test_an_outage_of_both_first_layers_uses_the_emergency_layer() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch(STILL)
        lab.layers[S].is_down = True
        await lab.availability.monitor.look(S)
        assert (await lab.tick("xxx"))[-1] is Standing.EMERGENCY
        assert await lab.post(b"one") is E
        lab.layers[S].is_down = False
        await lab.availability.monitor.look(S)
        assert lab.standing is Standing.DEGRADED
        assert await lab.post(b"two") is S
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        assert lab.kept(P) == [commit_to(b"one"), commit_to(b"two")]

    live(story)


def test_with_no_layer_left_a_write_fails_at_once() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch(STILL)
        assert (await lab.tick("xxx"))[-1] is Standing.UNAVAILABLE
        began = lab.loop.time()
        with pytest.raises(NoLayer):
            await lab.availability.router.store(b"one", lambda now: now.active, within_ms=0)
        assert lab.loop.time() == began

    live(story, roles=[P])


def test_status_and_routing_are_one_snapshot() -> None:
    # The original's status said "fallback" from the first failed check, and its router moved after the third.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        moved = []
        for sign in "xxx.x..x":
            await lab.tick(sign)
            now = availability.board.now
            assert now.is_on_fallback is (now.active is not P) is (now.standing is Standing.DEGRADED)
            moved.append(now.is_on_fallback)
            if now.is_on_fallback or sign == ".":
                assert (await lab.post(f"{len(moved)}".encode()) is not P) is now.is_on_fallback
        assert moved == [False, False, True, True, True, True, False, True]

    live(story)


def test_reconciling_puts_to_the_primary_itself_and_never_to_a_fallback_again() -> None:
    # The original reconciled through its router, which may have been on the fallback.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(5):
            await lab.post(blob)
        before = lab.layers[S].name, list(lab.kept(S))
        lab.primary.fails_before = Fault.lasting()
        await lab.tick("..")
        await asyncio.sleep(5.0)
        assert (lab.layers[S].name, lab.kept(S), lab.kept(E)) == (*before, [])
        assert availability.pending.count == 5

    live(story)


def test_what_was_put_to_a_fallback_is_readable_during_the_outage_after_it_and_when_the_fallback_is_gone() -> None:
    # The original asked the layer that was selected and no other.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.post(b"before")
        await lab.tick("xxx")
        await lab.post(b"during")
        during, before = commit_to(b"during"), commit_to(b"before")
        assert await availability.router.get(during) == b"during"
        with pytest.raises(LayerFailed) as refusal:
            await availability.router.get(before)
        assert not isinstance(refusal.value, BlobMissing), "it may well be there: the layer that would know is down"
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        assert await availability.router.get(during) == b"during"
        lab.layers[S].is_down = True
        await availability.monitor.look(S)
        assert await availability.router.get(during) == b"during"
        lab.layers[S].is_down = False
        with pytest.raises(BlobMissing):
            await availability.router.get(Commitment("0" * 64))

    live(story)


def test_a_damaged_blob_is_read_from_the_layer_that_has_it_whole() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        await lab.post(b"whole")
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        lab.primary.damage(commit_to(b"whole"), b"other")
        assert await availability.router.get(commit_to(b"whole")) == b"whole"
        report = await availability.compare()
        assert [detail.split(":")[0] for detail in report.details] == [commit_to(b"whole")]

    live(story)


def test_the_report_is_green_only_when_the_bytes_are_on_both_sides() -> None:
    # The original compared no data.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(3):
            await lab.post(blob)
        assert len((await availability.compare()).details) == 3
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        report = await availability.compare()
        assert (report.verified, report.details) == (3, ())
        lab.layers[S].damage(commit_to(blobs(3)[1]), b"rot")
        (detail,) = (await availability.compare()).details
        assert detail.startswith(commit_to(blobs(3)[1]))
        assert "secondary" in detail

    live(story)


def test_a_batch_size_of_ten_and_twenty_five_blobs_are_three_batches() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(25):
            await lab.post(blob)
        passes = []
        walk = availability.reconciler._pass

        async def remembered() -> object:
            passes.append(await walk())
            return passes[-1]

        availability.reconciler._pass = remembered  # type: ignore[method-assign,assignment]
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        assert [(one.batch_count, one.processed, one.reconciled, one.failed) for one in passes] == [(3, 25, 25, 0)]

    live(story)


@pytest.mark.parametrize(("parallel", "expected_s"), [(False, 10 * 0.3), (True, 2 * 0.3)])
def test_blobs_come_home_one_by_one_or_several_at_once_as_it_is_configured(parallel: bool, expected_s: float) -> None:
    async def story(lab: Lab) -> None:
        policy = POLICY.__class__(interval_ms=10**9, reconcile=ReconcilePolicy(parallel=parallel))
        await lab.watch(policy)
        await lab.tick("xxx")
        for blob in blobs(10):
            await lab.post(blob)
        await lab.tick(".")
        lab.primary.latency_ms = 100
        began_s = lab.loop.time()
        await lab.tick(".")
        await until(lab, Standing.HEALTHY)
        # Looked up, put and read back: three times the latency a blob.
        assert lab.loop.time() - began_s == pytest.approx(expected_s + 0.1, abs=0.1)

    live(story)


def test_a_blob_that_fails_too_often_is_stuck_listed_and_comes_home_when_somebody_asks() -> None:
    # The original dropped it.
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(2):
            await lab.post(blob)
        lab.primary.fails_before = Fault.lasting()
        await lab.tick("..")
        began_s = lab.loop.time()
        await availability.board.until(lambda now: now.stuck == 2)
        assert lab.loop.time() - began_s == pytest.approx(1 + 2 + 4, abs=0.5), "a delay, twice it, four times it"
        await asyncio.sleep(3_600.0)
        stuck = await availability.pending.read(0, 10, is_stuck=True)
        assert [(blob.retry_count, blob.is_stuck) for blob in stuck] == [(4, True)] * 2
        assert all(blob.last_error is not None and "failed as it was told to" in blob.last_error for blob in stuck)
        assert lab.standing is Standing.RECOVERING
        failed = await availability.reconciler.reconcile()
        assert (failed.success, failed.processed, failed.failed, len(failed.errors)) == (False, 2, 2, 2)
        lab.primary.fails_before.mend()
        report = await availability.reconciler.reconcile()
        assert (report.success, report.reconciled, report.stuck) == (True, 2, 0)
        assert lab.standing is Standing.HEALTHY

    live(story)


def test_a_primary_that_dies_while_recovering_costs_no_blob_a_retry() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        for _ in range(10):
            await lab.tick("xxx")
            for blob in blobs(3):
                await lab.post(blob)
            await lab.tick("..")
            lab.primary.is_down = True
            await until(lab, Standing.DEGRADED)
        assert [blob.retry_count for blob in await availability.pending.read(0, 10)] == [0, 0, 0]

    live(story)


def test_reconciling_by_hand_is_refused_while_the_primary_is_out_and_is_nothing_when_nothing_is_pending() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        report = await availability.reconciler.reconcile()
        assert (report.success, report.processed, availability.board.now.reconciliation_count) == (True, 0, 0)
        await lab.tick("xxx")
        with pytest.raises(PrimaryUnhealthy):
            await availability.reconciler.reconcile()

    live(story)


def test_a_primary_that_dies_while_recovering_is_one_failover_and_one_reconciliation_in_the_end() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        await lab.tick("xxx")
        for blob in blobs(30):
            await lab.post(blob)
        lab.primary.latency_ms = 100
        await lab.tick("..")
        await asyncio.sleep(4.0)
        lab.primary.latency_ms = 0
        assert (await lab.tick("x")) == [Standing.DEGRADED]
        left = availability.pending.count
        assert 0 < left < 30
        assert await lab.post(b"in between") is S
        await lab.tick("..")
        await until(lab, Standing.HEALTHY)
        now = availability.board.now
        assert (now.failover_count, now.reconciliation_count, now.pending) == (1, 1, 0)
        assert lab.kept(P) == [*(commit_to(blob) for blob in blobs(30)), commit_to(b"in between")]

    live(story)


def test_a_put_whose_answer_was_lost_is_looked_for_and_not_done_twice() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(STILL)
        lab.primary.fails_after = Fault.after(0)
        assert await lab.post(b"once") is P
        assert availability.layers[P].counts.post_count == 1

    live(story)


def test_a_put_that_hangs_is_given_up_when_another_layer_takes_over() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch()
        lab.primary.latency_ms = 10**9
        began_s = lab.loop.time()
        assert await lab.post(b"patient") is S
        assert lab.loop.time() - began_s <= 3 * INTERVAL_MS / 1_000 + 1.0

    live(story)


@pytest.mark.parametrize("interval_ms", [100, 700, 1_000, 5_000])
@pytest.mark.parametrize("dies", ["refusing", "silent"])
def test_the_fallback_takes_a_write_within_threshold_times_interval_and_a_second(interval_ms: int, dies: str) -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(POLICY.__class__(interval_ms=interval_ms))
        # The worst moment: a check has just passed.
        assert availability.layers[P].counts.health_check_count == 1
        await asyncio.sleep(interval_ms / 1_000 + 0.001)
        assert availability.layers[P].counts.health_check_count == 2
        if dies == "refusing":
            lab.primary.is_down = True
        else:
            lab.primary.latency_ms = 10**9
        began_s = lab.loop.time()
        assert await lab.post(b"first") is S
        assert lab.loop.time() - began_s <= 3 * interval_ms / 1_000 + 1.0

    live(story)


def test_a_slow_primary_is_degraded_and_not_out() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch(POLICY.__class__(interval_ms=5_000))
        lab.primary.latency_ms = 3_000
        await asyncio.sleep(60.0)
        now = availability.board.now
        assert (now.standing, now.layers[P].health) == (Standing.HEALTHY, LayerHealth.DEGRADED)

    live(story)


def test_a_layer_whose_check_never_ends_holds_up_nobody() -> None:
    async def story(lab: Lab) -> None:
        lab.layers[S].latency_ms = lab.layers[E].latency_ms = 10**9
        availability = await lab.watch()
        assert (availability.board.now.watched.secondary, availability.board.now.watched.emergency) == (False, False)
        checks = availability.layers[P].counts.health_check_count
        await asyncio.sleep(10.0)
        assert availability.layers[P].counts.health_check_count >= checks + 9

    live(story)


def test_a_failed_put_to_a_fallback_has_it_looked_at_at_once() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch(POLICY.__class__(interval_ms=60_000))
        await lab.tick("xxx")
        lab.layers[S].is_down = True
        began_s = lab.loop.time()
        assert await lab.post(b"one") is E
        assert lab.loop.time() - began_s < 1.0

    live(story)


def test_a_fallback_that_answers_checks_and_takes_no_puts_is_left_for_the_next_and_comes_back() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch()
        lab.layers[S].fails_before = Fault.lasting()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        began_s = lab.loop.time()
        assert await lab.post(b"one") is E
        assert lab.loop.time() - began_s < 1.0
        assert lab.standing is Standing.EMERGENCY
        assert availability.layers[S].counts.post_count == 3
        assert lab.log.getvalue().count("did not take a blob") == 1, "told once"
        lab.layers[S].fails_before.mend()  # type: ignore[attr-defined]
        await until(lab, Standing.DEGRADED)
        assert await lab.post(b"two") is S

    live(story)


def test_the_only_fallback_is_not_hammered_with_a_blob_it_does_not_take() -> None:
    async def story(lab: Lab) -> None:
        availability = await lab.watch()
        lab.layers[S].fails_before = Fault.lasting()
        lab.primary.is_down = True
        await until(lab, Standing.DEGRADED)
        with pytest.raises(LayerFailed):
            await lab.post(b"one")
        assert lab.standing is Standing.UNAVAILABLE
        assert availability.layers[S].counts.post_count == 3

    live(story, roles=[P, S])


def test_an_unknown_outcome_that_stays_unknown_says_so() -> None:
    async def story(lab: Lab) -> None:
        await lab.watch(STILL)
        lab.primary.latency_ms = 10**9
        with pytest.raises(LayerUnknown):
            await lab.availability.router.store(b"one", lambda now: now.active, within_ms=500)

    live(story)
