"""Every number lies in its bounds and says why it is what it is."""

import pytest

from weft.model import policy
from weft.model.policy import NUMBERS, Number


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
def test_a_number_lies_in_its_bounds_and_gives_its_reason(number: Number) -> None:
    assert number.lowest <= number.value <= number.highest
    assert number.because
    assert number.unit
    assert getattr(policy, number.name) == number.value


def test_inner_deadlines_do_not_outlive_outer_ones() -> None:
    assert policy.CONNECT_MS_MAX <= policy.REQUEST_MS_MAX <= policy.FAULT_MS_MAX
    assert policy.SWEEP_MS * 10 <= policy.NODE_SILENT_MS < policy.NODE_LOST_MS
    assert policy.LEASE_RENEW_MS * 5 <= policy.LEASE_MS
    assert policy.WAIT_MS_MAX < 60_000


def test_a_transfer_gets_a_base_and_time_for_its_size() -> None:
    assert policy.transfer_ms_max(0) == 30_000
    assert policy.transfer_ms_max(10_000_000) == 31_000
