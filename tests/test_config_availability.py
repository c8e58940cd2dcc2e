"""How layers are watched, from the environment: the seed's defaults, and every wrong value named."""

import pytest

from weft.config import read_availability_policy
from weft.model.availability import Acknowledgement, AvailabilityPolicy, ReconcilePolicy, Thresholds
from weft.model.errors import Misconfigured


def test_the_defaults_are_the_seeds() -> None:
    assert read_availability_policy({}) == AvailabilityPolicy(
        interval_ms=5_000,
        thresholds=Thresholds(failures=3, successes=2),
        reconcile=ReconcilePolicy(batch_size=10, retry_delay_ms=1_000, max_retries=3, parallel=False, auto=True),
        acknowledgement=Acknowledgement.AVAILABLE,
    )


def test_every_variable_is_heeded() -> None:
    # The original read the retry delay and the parallel switch and used neither.
    policy = read_availability_policy(
        {
            "RECONCILE_BATCH_SIZE": "25",
            "RECONCILE_RETRY_DELAY_MS": "50",
            "RECONCILE_MAX_RETRIES": "0",
            "RECONCILE_PARALLEL": "true",
            "WEFT_DA_CHECK_INTERVAL_MS": "100",
            "WEFT_DA_FAILURE_THRESHOLD": "1",
            "WEFT_DA_RECOVERY_THRESHOLD": "5",
            "WEFT_DA_AUTO_RECONCILE": "false",
            "WEFT_ACK": "committed",
        }
    )
    assert policy.reconcile == ReconcilePolicy(
        batch_size=25, retry_delay_ms=50, max_retries=0, parallel=True, auto=False
    )
    assert (policy.interval_ms, policy.thresholds) == (100, Thresholds(failures=1, successes=5))
    assert policy.acknowledgement is Acknowledgement.COMMITTED


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RECONCILE_BATCH_SIZE", "0"),
        ("RECONCILE_BATCH_SIZE", "1001"),
        ("RECONCILE_RETRY_DELAY_MS", "soon"),
        ("RECONCILE_MAX_RETRIES", "-1"),
        ("RECONCILE_PARALLEL", "maybe"),
        ("WEFT_DA_CHECK_INTERVAL_MS", "0"),
        ("WEFT_DA_FAILURE_THRESHOLD", "0"),
        ("WEFT_DA_RECOVERY_THRESHOLD", "1.5"),
        ("WEFT_DA_AUTO_RECONCILE", "perhaps"),
        ("WEFT_ACK", "sometime"),
    ],
)
def test_a_wrong_value_is_named(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as refusal:
        read_availability_policy({variable: value})
    assert refusal.value.variable == variable
