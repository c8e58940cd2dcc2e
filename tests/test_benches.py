"""The judge of the figures: a promise that was missed is said so, and nothing is promised by accident."""

import pytest
from benches import budgets
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
