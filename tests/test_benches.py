"""The judge of the figures: a promise that was missed is said so, and nothing is promised by accident."""

import pytest
from benches import budgets, neighbours
from benches.peers import __main__ as peers
from benches.peers.timing import WALK_BYTES, Operation
from benches.rounds import Row


@pytest.mark.parametrize("budget", list(budgets.BUDGET_MS))
def test_a_budget_that_was_missed_is_flagged_and_one_that_was_kept_is_not(budget: str) -> None:
    for took_ms, kept in ((budgets.BUDGET_MS[budget], True), (budgets.BUDGET_MS[budget] + 1.0, False), (0.1, True)):
        row = budgets.rows()[budget]
        row.weft.append(took_ms)
        assert row.kept is kept


def test_the_budgets_are_the_seed_s() -> None:
    assert budgets.BUDGET_MS == {"register_ms": 5_000, "beat_ms": 1_000, "place_ms": 100}
    assert (budgets.NODES, budgets.BEAT_EVERY_S, budgets.PLACEMENTS_PER_S) == (50, 10.0, 1_000)


def test_the_percentile_is_of_the_slowest_hundredth() -> None:
    assert budgets.p99([float(one) for one in range(1_000)]) == 990.0
    assert budgets.p99([7.0]) == 7.0


@pytest.mark.parametrize(("bound", "kept"), [("≤ 1.00", False), ("≥ 1.00", True), ("", None)])
def test_a_bound_is_read_in_its_direction(bound: str, kept: bool | None) -> None:
    assert Row("x", "ms", bound, floor=[1.0, 1.0, 1.0], weft=[1.0, 2.0, 3.0]).kept is kept


def everybody(**p50_us: float) -> list[peers.Party]:
    """A floor of 10 µs and whoever else, each with one sample of every operation."""
    made = []
    for name, took in {"floor": 10.0, **p50_us}.items():
        party = peers.Party(name, dict)
        for line in peers.lines():
            party.samples[line.operation.name] = [took]
            party.samples[line.floor.name] = [took]
        made.append(party)
    return made


@pytest.mark.parametrize(
    ("weft", "nixl", "missed"),
    [(12.0, 13.3, []), (13.1, 20.0, ["≤ 1.30 of the floor"]), (12.9, 12.8, ["behind NIXL"])],
)
def test_a_small_read_is_judged_by_the_floor_and_by_nixl(weft: float, nixl: float, missed: list[str]) -> None:
    assert peers.judge(peers.lines()[0], everybody(NIXL=nixl, redis=1.0, Weft=weft))[1] == missed


def test_a_bulk_read_is_judged_by_every_peer_that_was_measured() -> None:
    bulk = next(line for line in peers.lines() if line.name == "read 64 MiB")
    assert peers.judge(bulk, everybody(NIXL=12.0, redis=11.5, Weft=11.0)) == (pytest.approx(10 / 11), [])
    parties = everybody(NIXL=12.0, redis=10.5, Weft=11.0)
    assert peers.judge(bulk, parties)[1] == ["behind redis"]
    parties[2].why_not = "it is not to be had"
    assert peers.judge(bulk, parties)[1] == []


def test_a_peer_that_fails_twice_says_why_and_is_not_asked_again() -> None:
    asked = []

    def broken() -> dict[str, float]:
        asked.append(1)
        raise RuntimeError("no such\n  library")

    party = peers.Party("NIXL", broken)
    for _ in range(3):
        party.sample()
    assert (party.why_not, len(asked)) == ("no such library", 2)
    assert party.median(peers.lines()[0]) is None


def test_sixteen_pages_in_one_call_are_judged_by_the_rate_of_their_sum() -> None:
    [weft] = everybody()[:1]
    batch = next(line.operation for line in peers.lines() if line.name == "read sixteen 4 KiB")
    for took, count in ((13.0, 0), (13.5, 1)):
        weft.samples[batch.name] = [took]
        assert len(peers.batch_promise(weft, "cubic")) == count


def test_ranges_of_one_call_lie_apart_and_inside_the_walk() -> None:
    for index in (0, 1, 4_000, 16_383):
        offsets = Operation("read", 4096, 1, 16).offsets(index)
        assert len(set(offsets)) == 16
        assert all(0 <= offset <= WALK_BYTES - 4096 for offset in offsets)


def test_what_is_promised_of_neighbours_is_judged_by_the_samples_that_were_taken() -> None:
    small = Row("allocated 4 KiB, hot", "µs", "", floor=[0.1], weft=[2.9])
    slow = Row("registered 4 KiB, walk", "µs", "", floor=[0.1], weft=[3.1])
    bulk = Row("allocated 64 KiB, walk", "GB/s", "", floor=[30.0], weft=[14.9])
    other = Row("registered 64 KiB, hot", "GB/s", "", floor=[30.0], weft=[1.0])
    assert [row.kept for row in neighbours.promises([small, slow, bulk, other])] == [True, False, False]
