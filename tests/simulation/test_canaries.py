"""Rules broken on purpose. A simulator that does not notice within a few seeds is not looking."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from weft.agent.holdings import Holdings
from weft.coordinator import healer
from weft.coordinator.bindings import Bindings
from weft.coordinator.jobs import Jobs
from weft.coordinator.repeats import RepeatWindow
from weft.coordinator.roster import Roster
from weft.coordinator.shipping import Shipper
from weft.coordinator.sweep import Sweep
from weft.coordinator.term import Terms
from weft.coordinator.watch import Watch
from weft.core import attachment, dispatch, holding, region
from weft.ledger.pending import PendingList
from weft.model import events
from weft.model.ids import Position
from weft.testing import keepers
from weft.testing.disk import Disk
from weft.testing.journal_server import JournalServer
from weft.testing.lender import LenderDouble
from weft.testing.sim import Simulation, SimulationFailedError
from weft.testing.stock import StockDouble

SEEDS_MAX = 12


ALL_KINDS, LAYERED, PAIRED = (1, 2, 3, 0), (2, 0), (3, 0)


def caught(agents: int = 3, steps: int = 150, kinds: tuple[int, ...] = ALL_KINDS) -> str:
    """What the first seed that notices says."""
    for seed in [seed for seed in range(1, 4 * SEEDS_MAX) if seed % 4 in kinds][:SEEDS_MAX]:
        try:
            Simulation(seed, agents=agents, steps=steps).run()
        except SimulationFailedError as error:
            return error.what
    pytest.fail(f"{SEEDS_MAX} seeds noticed nothing of it")


def test_an_attachment_that_forgets_to_fence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "touch_holders", lambda draft, region: None)
    assert "still let" in caught()


def test_an_agent_that_claims_a_target_before_its_fences_stand_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LenderDouble.raise_generation

    async def slowly(lender: LenderDouble, region_id: str, generation: int) -> None:
        await asyncio.sleep(1.0)
        await right(lender, region_id, generation)

    # A claim that comes too early shows while a fence is on its way, so every fence takes its time.
    monkeypatch.setattr(LenderDouble, "raise_generation", slowly)
    monkeypatch.setattr(Holdings, "generation", property(lambda holdings: holdings._target_generation))
    assert "still let" in caught()


def test_a_disk_that_says_synced_before_it_is_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "__init__", _lying(Disk.__init__))
    assert "the disk has" in caught()


def test_a_request_that_is_carried_out_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RepeatWindow, "find", lambda window, cause: None)
    assert "was carried out at" in caught(steps=300)


def test_an_application_that_reads_more_than_the_log_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count(1)
    right = dispatch.APPLICATIONS[events.RegionPlanned]

    def wrong(draft: Any, event: events.RegionPlanned) -> None:
        right(draft, msgspec.structs.replace(event, at_ms=event.at_ms + next(count)))

    monkeypatch.setitem(dispatch.APPLICATIONS, events.RegionPlanned, wrong)
    assert "is not what its log implies" in caught()


def test_room_that_is_not_given_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(draft: Any, gone: Any) -> None:
        for node_id in holding.holders(draft, gone):
            held = draft.holdings.get(node_id) or ()
            draft.holdings.put(node_id, tuple(other for other in held if other != gone.region_id))

    monkeypatch.setattr(region, "put_down", wrong)
    assert "is charged with" in caught()


def test_a_second_writer_let_in_beside_the_first_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "_make_way", lambda view, region, command: [])
    assert "one of them exclusive" in caught()


def test_a_sweep_that_gives_nobody_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "_lost_nodes", lambda sweep: [])
    assert "does not run and is" in caught()


def test_a_fence_that_falls_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attachment._set_attachments

    def wrong(draft: Any, region: Any, attachment_ids: Any, generation: Any) -> None:
        right(draft, region, attachment_ids, generation)
        if not attachment_ids and (row := draft.regions.get(region.region_id)) is not None:
            draft.regions.put(region.region_id, msgspec.structs.replace(row, floor=1))

    monkeypatch.setattr(attachment, "_set_attachments", wrong)
    assert "fell from" in caught()


def test_a_plan_that_heals_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = healer.plan
    monkeypatch.setattr(healer, "plan", lambda *given: msgspec.structs.replace(right(*given), copies=()))
    assert "copies" in caught()


def test_a_copy_that_is_reported_and_not_made_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(stock: StockDouble, *copy: Any) -> None:
        return None

    monkeypatch.setattr(StockDouble, "fetch", wrong)
    assert "the books say" in caught()


def test_a_slot_that_is_promised_and_not_counted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "promised", property(lambda jobs: {}))
    assert "were given slots of" in caught(steps=300)


def test_a_promise_that_outlives_its_node_s_next_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "settle", lambda *_: None)
    said = caught(steps=300)
    assert "was refused while" in said or "are promised" in said


def test_a_job_that_comes_back_from_a_lost_node_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "find", lambda jobs, placement_id, aside: jobs._known(placement_id))
    assert "was lost with its node" in caught(steps=300)


def test_work_that_is_sent_to_who_takes_none_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roster, "aside", lambda roster: {})
    assert "was sent to" in caught(steps=300)


def test_an_adapter_that_stays_bound_to_a_lost_engine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bindings, "on_merged", lambda *_: None)
    assert "is bound to" in caught(steps=300)


def test_a_stream_that_leaves_an_event_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, count = Watch._spell, itertools.count(1)

    def wrong(watch: Watch, sealed: Any, seen: int | None) -> bytes:
        return b"" if next(count) % 40 == 0 else right(watch, sealed, seen)

    monkeypatch.setattr(Watch, "_spell", wrong)
    assert "was handed" in caught()


def test_an_answer_that_does_not_wait_for_a_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(shipper: Shipper, position: Any) -> None:
        return None

    monkeypatch.setattr(Shipper, "reached", wrong)
    assert "no layer has it" in caught(kinds=LAYERED)


def test_a_pending_list_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(pending: PendingList, *given: Any, **named: Any) -> None:
        return None

    monkeypatch.setattr(PendingList, "add", wrong)
    assert "the primary has nothing for" in caught(kinds=LAYERED, steps=300)


def test_a_witness_that_answers_before_its_disk_has_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = keepers._SlowShelf.__init__

    def never_syncs(shelf: Any, log: Any, machine: Any) -> None:
        right(shelf, log, machine)
        shelf.synced_bytes = log.size_bytes

    def lose_the_unsynced(shelf: Any, chance: Any) -> None:
        os.truncate(shelf.log.path, shelf.synced_bytes)
        shelf.log.close()

    monkeypatch.setattr(keepers._SlowShelf, "__init__", never_syncs)
    monkeypatch.setattr(keepers._SlowShelf, "crash", lose_the_unsynced)
    assert "that its disk has not" in caught(kinds=LAYERED, steps=300)


def test_a_journal_that_lets_a_deposed_writer_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = JournalServer.append

    async def wrong(server: JournalServer, sealed: Any, expected: Any) -> None:
        await right(server, sealed, Position(len(server.disk.rows)))

    monkeypatch.setattr(JournalServer, "append", wrong)
    monkeypatch.setattr(Terms, "_lease_holds", lambda terms: True)
    assert caught(kinds=PAIRED, steps=300)


def _lying(right: Callable[..., None]) -> Callable[..., None]:
    def wrong(disk: Disk, *args: Any, **named: Any) -> None:
        right(disk, *args, **named)
        disk.lies = True

    return wrong
