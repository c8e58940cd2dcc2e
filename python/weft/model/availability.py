"""Availability: which layers keep copies of the log, how they stand, and what still has to reach the first of them.

A *role* is what a layer is for: the primary is where everything is meant to be, the secondary and the emergency layer
take writes while it cannot. The *standing* is the one word for all three together, and `core.failover` is the table of
how it changes. A *pending blob* is kept by a fallback and not yet, as far as anybody verified, by the primary.
"""

from enum import StrEnum

import msgspec

from weft.model.ids import Position


class Role(StrEnum):
    """What a layer is for, in the order in which they are asked to take a write."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    EMERGENCY = "emergency"


FALLBACKS = (Role.SECONDARY, Role.EMERGENCY)


class Standing(StrEnum):
    """How availability stands."""

    HEALTHY = "healthy"
    WARNING = "warning"
    DEGRADED = "degraded"
    EMERGENCY = "emergency"
    RECOVERING = "recovering"
    UNAVAILABLE = "unavailable"


class Evidence(StrEnum):
    """What was learned. Counting is done where it is learned; the table knows only what it means."""

    FAILED = "failed"
    """The primary failed a check."""
    SUCCEEDED = "passed"
    """The primary passed a check."""
    OUT_TO_SECONDARY = "out, to secondary"
    """The primary is out, and the secondary is healthy."""
    OUT_TO_EMERGENCY = "out, to emergency"
    """The primary and the secondary are out, and the emergency layer is healthy."""
    OUT_OF_LAYERS = "out, to none"
    """No layer is healthy."""
    RECOVERED = "recovered"
    """The primary passed enough checks in a row."""
    RECONCILED = "reconciled"
    """The primary holds everything that was pending."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """How many checks in a row mean that the primary is out, and that it is back."""

    failures: int = 3
    successes: int = 2


class ReconcilePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How what is pending is brought to the primary. `auto` false leaves it to a person."""

    batch_size: int = 10
    retry_delay_ms: int = 1_000
    max_retries: int = 3
    parallel: bool = False
    auto: bool = True


class Acknowledgement(StrEnum):
    """What an answer to a write waits for, where a layer is configured."""

    AVAILABLE = "available"
    COMMITTED = "committed"


class AvailabilityPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How layers are watched, and what is done about what they say. The defaults are the seed's."""

    interval_ms: int = 5_000
    thresholds: Thresholds = Thresholds()
    reconcile: ReconcilePolicy = ReconcilePolicy()
    acknowledgement: Acknowledgement = Acknowledgement.AVAILABLE


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks so far add up to. A layer that is not configured is None."""

    standing: Standing = Standing.HEALTHY
    failures: int = 0
    successes: int = 0
    primary: bool = True
    secondary: bool | None = None
    emergency: bool | None = None


class PendingBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob the primary is not known to hold.

    `sequence` is the pending list's own count, the order in which blobs reach the primary. `position` is the place in
    the log of the batch it carries, None for what somebody posted. `is_stuck` says that its retries are used up: only
    a person has it tried again.
    """

    commitment: str
    source: Role
    sequence: int
    stored_at_ms: int
    size_bytes: int
    position: Position | None = None
    retry_count: int = 0
    last_error: str | None = None
    is_stuck: bool = False
