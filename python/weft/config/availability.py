"""How layers are watched and what is done about it: the storage seed's variables, and Weft's own beside them.

RECONCILE_BATCH_SIZE           pending blobs brought to the primary between two looks at the list
RECONCILE_RETRY_DELAY_MS       until a blob that failed is tried again; doubled each time
RECONCILE_MAX_RETRIES          after so many retries a blob is stuck, and a person has it tried again
RECONCILE_PARALLEL             true: several blobs of a batch on their way at once
WEFT_DA_CHECK_INTERVAL_MS      how often each layer is looked at
WEFT_DA_FAILURE_THRESHOLD      failed checks in a row after which the primary is out
WEFT_DA_RECOVERY_THRESHOLD     good checks in a row after which it is back
WEFT_DA_AUTO_RECONCILE         false: only POST /fallback/reconcile reconciles
WEFT_ACK                       available, or committed: answers wait for the journal alone
"""

from collections.abc import Mapping
from typing import Final

from weft.config.process import count_of, is_set
from weft.model.availability import Acknowledgement, AvailabilityPolicy, ReconcilePolicy, Thresholds
from weft.model.errors import Misconfigured
from weft.model.policy import COUNT_MAX

INTERVAL_MS_MAX: Final = 3_600_000
BATCH_SIZE_MAX: Final = 1_000
"""Blobs of one batch are not all in memory at once, but their entries are."""
THRESHOLD_MAX: Final = 1_000


def read_availability_policy(env: Mapping[str, str]) -> AvailabilityPolicy:
    """What the environment says. Every variable is checked, whether a layer is configured or not."""
    default = AvailabilityPolicy()
    reconcile, thresholds = default.reconcile, default.thresholds
    return AvailabilityPolicy(
        interval_ms=_bounded(env, "WEFT_DA_CHECK_INTERVAL_MS", default.interval_ms, INTERVAL_MS_MAX),
        thresholds=Thresholds(
            failures=_bounded(env, "WEFT_DA_FAILURE_THRESHOLD", thresholds.failures, THRESHOLD_MAX),
            successes=_bounded(env, "WEFT_DA_RECOVERY_THRESHOLD", thresholds.successes, THRESHOLD_MAX),
        ),
        reconcile=ReconcilePolicy(
            batch_size=_bounded(env, "RECONCILE_BATCH_SIZE", reconcile.batch_size, BATCH_SIZE_MAX),
            retry_delay_ms=_bounded(env, "RECONCILE_RETRY_DELAY_MS", reconcile.retry_delay_ms, INTERVAL_MS_MAX),
            max_retries=_from_zero(env, "RECONCILE_MAX_RETRIES", reconcile.max_retries),
            parallel=is_set(env, "RECONCILE_PARALLEL"),
            auto=is_set(env, "WEFT_DA_AUTO_RECONCILE") if env.get("WEFT_DA_AUTO_RECONCILE", "").strip() else True,
        ),
        acknowledgement=_acknowledgement(env),
    )


def _acknowledgement(env: Mapping[str, str]) -> Acknowledgement:
    text = env.get("WEFT_ACK", "").strip() or Acknowledgement.AVAILABLE.value
    try:
        return Acknowledgement(text)
    except ValueError:
        raise Misconfigured(f"WEFT_ACK is available or committed, not {text!r}", variable="WEFT_ACK") from None


def _bounded(env: Mapping[str, str], variable: str, default: int, highest: int) -> int:
    count = count_of(env, variable, default)
    if count > highest:
        raise Misconfigured(f"{variable} is at most {highest}, not {count}", variable=variable)
    return count


def _from_zero(env: Mapping[str, str], variable: str, default: int) -> int:
    text = env.get(variable, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > COUNT_MAX:
        raise Misconfigured(f"{variable} is a whole number from zero, not {text!r}", variable=variable)
    return int(text)
