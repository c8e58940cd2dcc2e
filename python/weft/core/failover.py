"""Failover: the states of availability as a table, and what a check of a layer adds up to.

    standing     evidence             next
    healthy      failed               warning
    warning      out, to secondary    degraded

The table is all there is: an edge that is not in it cannot be taken. Failures and successes are counted, never timed,
so that a clock that jumps moves nothing. A primary that is slow passes; a primary that answers that it is unavailable
does not, whatever the answer's manners.

What if the primary dies again while it is recovering? One failed check is enough then: it has its reputation. What if
the process starts in the middle of an outage? It says so (`begin`): while blobs are pending the way to healthy leads
through recovering, whatever the first check says.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from weft.model.availability import Evidence, Role, Standing, Thresholds, Watched

_OUT: Final = {
    Evidence.OUT_TO_SECONDARY: Standing.DEGRADED,
    Evidence.OUT_TO_EMERGENCY: Standing.EMERGENCY,
    Evidence.OUT_OF_LAYERS: Standing.UNAVAILABLE,
}
_FALLEN: Final = (Standing.DEGRADED, Standing.EMERGENCY, Standing.UNAVAILABLE)

EDGES: Final[Mapping[tuple[Standing, Evidence], Standing]] = MappingProxyType(
    {
        (Standing.HEALTHY, Evidence.SUCCEEDED): Standing.HEALTHY,
        (Standing.HEALTHY, Evidence.FAILED): Standing.WARNING,
        (Standing.WARNING, Evidence.FAILED): Standing.WARNING,
        (Standing.WARNING, Evidence.SUCCEEDED): Standing.HEALTHY,
        **{(Standing.WARNING, out): fallen for out, fallen in _OUT.items()},
        **{(before, out): fallen for before in _FALLEN for out, fallen in _OUT.items()},
        **{(before, Evidence.RECOVERED): Standing.RECOVERING for before in _FALLEN},
        (Standing.RECOVERING, Evidence.RECOVERED): Standing.RECOVERING,
        **{(Standing.RECOVERING, out): fallen for out, fallen in _OUT.items()},
        (Standing.RECOVERING, Evidence.RECONCILED): Standing.HEALTHY,
    }
)
"""(standing, evidence) → standing. `docs/ledger.md` draws it, and a test holds the drawing to it."""

ACTIVE: Final[Mapping[Standing, Role | None]] = MappingProxyType(
    {
        Standing.HEALTHY: Role.PRIMARY,
        Standing.WARNING: Role.PRIMARY,
        Standing.DEGRADED: Role.SECONDARY,
        Standing.EMERGENCY: Role.EMERGENCY,
        Standing.RECOVERING: Role.PRIMARY,
        Standing.UNAVAILABLE: None,
    }
)
"""Which layer takes writes."""


def begin(*, secondary: bool | None, emergency: bool | None, has_pending: bool) -> Watched:
    """Before the first check. With blobs pending an outage is not over, whoever saw it begin."""
    watched = Watched(secondary=secondary, emergency=emergency)
    if not has_pending:
        return watched
    fallen = replace(watched, primary=False)
    return replace(fallen, standing=_OUT[_out(fallen)])


def observe(watched: Watched, role: Role, healthy: bool, thresholds: Thresholds) -> Watched:
    """What one more check of one layer makes of it."""
    if role is not Role.PRIMARY:
        seen = replace(watched, **{role.value: healthy})
        return _step(seen, _out(seen)) if seen.standing in _FALLEN else seen
    if healthy:
        return _observe_success(watched, thresholds)
    failed = replace(watched, primary=False, failures=watched.failures + 1, successes=0)
    if failed.standing in (Standing.HEALTHY, Standing.WARNING):
        failed = _step(failed, Evidence.FAILED)
        if failed.failures < thresholds.failures:
            return failed
    return _step(failed, _out(failed))


def reconcile(watched: Watched) -> Watched:
    """The primary holds everything that was pending. Says nothing new unless it was recovering."""
    return _step(watched, Evidence.RECONCILED) if watched.standing is Standing.RECOVERING else watched


def draw() -> Iterator[str]:
    """The table as lines of Markdown, for the documentation. A dot is an edge that is not there."""
    yield f"| standing | {' | '.join(evidence.value for evidence in Evidence)} |"
    yield "|---" * (len(Evidence) + 1) + "|"
    for before in Standing:
        cells = [EDGES[before, evidence].value if (before, evidence) in EDGES else "·" for evidence in Evidence]
        yield f"| **{before.value}** | {' | '.join(cells)} |"


def _observe_success(watched: Watched, thresholds: Thresholds) -> Watched:
    passed = replace(watched, primary=True, failures=0, successes=watched.successes + 1)
    if passed.standing in (Standing.HEALTHY, Standing.WARNING):
        return _step(passed, Evidence.SUCCEEDED)
    if passed.standing is Standing.RECOVERING or passed.successes >= thresholds.successes:
        return _step(passed, Evidence.RECOVERED)
    return passed


def _out(watched: Watched) -> Evidence:
    if watched.secondary:
        return Evidence.OUT_TO_SECONDARY
    return Evidence.OUT_TO_EMERGENCY if watched.emergency else Evidence.OUT_OF_LAYERS


def _step(watched: Watched, evidence: Evidence) -> Watched:
    return replace(watched, standing=EDGES[watched.standing, evidence])
