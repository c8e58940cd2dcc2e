"""What tests of the availability layers share: the roles, patience that suits a test, and an outage."""

from tests.ledger.lab import POLICY, Lab
from weft.coordinator.app import Limits
from weft.ledger.layer import Cursor, Scan
from weft.model.availability import AvailabilityPolicy, Role, Standing

P, S, E = Role.PRIMARY, Role.SECONDARY, Role.EMERGENCY
STILL = POLICY.__class__(interval_ms=10**9)
QUICK = Limits(sweep_ms=3_600_000, available_ms_max=2_000, append_ms_max=1_000)


async def nothing_found(after: Cursor, count_max: int) -> Scan:
    return Scan(kept=[], after=after, is_end=True)


async def until(lab: Lab, standing: Standing) -> None:
    await lab.availability.board.until(lambda now: now.standing is standing)


async def outage(lab: Lab, policy: AvailabilityPolicy = POLICY) -> None:
    """Six writes that only the emergency layer took."""
    await lab.serve(policy)
    await lab.found()
    lab.primary.is_down = True
    await until(lab, Standing.EMERGENCY)
    for number in range(6):
        await lab.register(number)
