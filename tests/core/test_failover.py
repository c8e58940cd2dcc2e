"""The states of availability: every edge of the table, no other, and what sequences of checks lead to."""

import itertools
from pathlib import Path

import pytest

from weft.core.failover import ACTIVE, EDGES, begin, draw, observe, reconcile
from weft.model.availability import Evidence, Role, Standing, Thresholds, Watched

GOOD, BAD = True, False
S, E = Standing, Evidence
OUT = (E.OUT_TO_SECONDARY, E.OUT_TO_EMERGENCY, E.OUT_OF_LAYERS)


SEED = Thresholds()


def checked(primary: str, watched: Watched | None = None, thresholds: Thresholds = SEED) -> list[Standing]:
    """The standing after each check of the primary: `.` for a good one, `x` for a bad one."""
    watched = watched or Watched(secondary=True, emergency=True)
    standings = []
    for sign in primary:
        watched = observe(watched, Role.PRIMARY, sign == ".", thresholds)
        standings.append(watched.standing)
    return standings


@pytest.mark.parametrize(
    ("before", "evidence", "after"),
    [
        (S.HEALTHY, E.SUCCEEDED, S.HEALTHY),
        (S.HEALTHY, E.FAILED, S.WARNING),
        (S.WARNING, E.SUCCEEDED, S.HEALTHY),
        (S.WARNING, E.FAILED, S.WARNING),
        (S.RECOVERING, E.RECOVERED, S.RECOVERING),
        (S.RECOVERING, E.RECONCILED, S.HEALTHY),
        *((before, OUT[0], S.DEGRADED) for before in S if before is not S.HEALTHY),
        *((before, OUT[1], S.EMERGENCY) for before in S if before is not S.HEALTHY),
        *((before, OUT[2], S.UNAVAILABLE) for before in S if before is not S.HEALTHY),
        *((before, E.RECOVERED, S.RECOVERING) for before in (S.DEGRADED, S.EMERGENCY, S.UNAVAILABLE)),
    ],
)
def test_every_edge_leads_where_the_table_says(before: Standing, evidence: Evidence, after: Standing) -> None:
    assert EDGES[before, evidence] is after


def test_there_is_no_other_edge() -> None:
    assert len(EDGES) == 6 + 15 + 3


@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("successes", [1, 2])
def test_no_sequence_of_checks_asks_for_an_edge_that_is_not_there(failures: int, successes: int) -> None:
    thresholds = Thresholds(failures=failures, successes=successes)
    inputs = [(role, healthy) for role in Role for healthy in (GOOD, BAD)]
    reached = {Watched(secondary=True, emergency=False), begin(secondary=False, emergency=True, has_pending=True)}
    waiting, seen = list(reached), set()
    while waiting:
        watched = waiting.pop()
        for role, healthy in inputs:
            after = observe(watched, role, healthy, thresholds)
            for one in (after, reconcile(after)):
                capped = Watched(
                    **{name: getattr(one, name) for name in ("standing", "primary", "secondary", "emergency")},
                    failures=min(one.failures, 4),
                    successes=min(one.successes, 4),
                )
                seen.add(capped.standing)
                if capped not in reached:
                    reached.add(capped)
                    waiting.append(capped)
    assert seen == set(Standing) - ({S.WARNING} if failures == 1 else set())


def test_one_failed_check_is_a_warning_and_one_good_one_ends_it() -> None:
    assert checked("x.") == [S.WARNING, S.HEALTHY]
    assert checked("xx.xx.") == [S.WARNING, S.WARNING, S.HEALTHY] * 2


def test_the_third_failure_in_a_row_and_not_the_third_in_all_is_an_outage() -> None:
    assert checked("x.x.xxx")[-1] is S.DEGRADED
    assert S.DEGRADED not in checked("x.x.xx")


def test_recovery_fires_at_the_default_threshold_of_two_and_not_only_at_one() -> None:
    # The original cleared what it had to remember at the first good check, and so never reconciled by default.
    standings = checked("..." + "x" * 10 + "." * 20)
    assert standings.index(S.DEGRADED) == 5
    assert standings.index(S.RECOVERING) == 14
    assert standings.count(S.HEALTHY) == 3, "healthy only once it is reconciled"
    assert checked("xxx.", thresholds=Thresholds(successes=1))[-1] is S.RECOVERING


def test_one_good_check_between_bad_ones_is_no_recovery() -> None:
    assert checked("xxx.x.x.x")[3:] == [S.DEGRADED] * 6


def test_only_what_was_reconciled_makes_a_recovering_layer_healthy() -> None:
    recovering = Watched(standing=S.RECOVERING)
    assert reconcile(recovering).standing is S.HEALTHY
    for standing in set(Standing) - {S.RECOVERING}:
        assert reconcile(Watched(standing=standing)).standing is standing


def test_a_recovering_primary_that_fails_once_is_out_again() -> None:
    assert checked("xxx..x")[-1] is S.DEGRADED


@pytest.mark.parametrize(
    ("secondary", "emergency", "standing"),
    [
        (True, True, S.DEGRADED),
        (True, None, S.DEGRADED),
        (False, True, S.EMERGENCY),
        (None, True, S.EMERGENCY),
        (False, False, S.UNAVAILABLE),
        (None, None, S.UNAVAILABLE),
    ],
)
def test_an_outage_leads_to_the_first_layer_that_is_healthy(
    secondary: bool | None, emergency: bool | None, standing: Standing
) -> None:
    assert checked("xxx", Watched(secondary=secondary, emergency=emergency))[-1] is standing


def test_a_fallback_that_comes_or_goes_during_an_outage_moves_writes_at_once() -> None:
    watched = Watched(standing=S.DEGRADED, primary=False, secondary=True, emergency=True)
    for role, healthy, expected in (
        (Role.SECONDARY, BAD, S.EMERGENCY),
        (Role.EMERGENCY, BAD, S.UNAVAILABLE),
        (Role.EMERGENCY, GOOD, S.EMERGENCY),
        (Role.SECONDARY, GOOD, S.DEGRADED),
    ):
        watched = observe(watched, role, healthy, Thresholds())
        assert watched.standing is expected


def test_fallbacks_that_come_and_go_move_nothing_while_the_primary_is_well() -> None:
    for standing in (S.HEALTHY, S.WARNING, S.RECOVERING):
        for role, healthy in itertools.product((Role.SECONDARY, Role.EMERGENCY), (GOOD, BAD)):
            assert observe(Watched(standing=standing), role, healthy, Thresholds()).standing is standing


def test_a_threshold_of_one_goes_through_warning_in_one_check() -> None:
    assert checked("x", thresholds=Thresholds(failures=1)) == [S.DEGRADED]


def test_a_start_with_blobs_pending_is_in_the_outage_it_left() -> None:
    begun = begin(secondary=True, emergency=None, has_pending=True)
    assert begun.standing is S.DEGRADED
    assert checked("..", begun) == [S.DEGRADED, S.RECOVERING]
    assert begin(secondary=True, emergency=None, has_pending=False).standing is S.HEALTHY


def test_a_start_without_a_success_is_no_emergency() -> None:
    # The original counted from a success that had not happened yet.
    assert checked("x", begin(secondary=True, emergency=True, has_pending=False)) == [S.WARNING]


def test_writes_go_where_the_standing_says() -> None:
    assert {standing: ACTIVE[standing] for standing in Standing} == {
        S.HEALTHY: Role.PRIMARY,
        S.WARNING: Role.PRIMARY,
        S.DEGRADED: Role.SECONDARY,
        S.EMERGENCY: Role.EMERGENCY,
        S.RECOVERING: Role.PRIMARY,
        S.UNAVAILABLE: None,
    }


def test_the_table_in_the_documentation_is_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    assert "\n".join(draw()) in page
