"""What faults cost: the pager seed's five numbers under its names, and the same for local and remote faults apart.

The rules are the seed's. The median of an even count is the mean of the middle two, rounded down; the 99th percentile
is the sorted list's element min(floor(0.99 n), n - 1); both are None before the first fault; the miss ratio is remote
faults over all, and 0.0 before the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from msgspec import Struct


class FaultStats(Struct, frozen=True, kw_only=True):
    """Faults of one window since it was made. Times are whole microseconds from the fault's arrival to its end."""

    local_faults: int
    remote_faults: int
    median_latency_us: int | None
    p99_latency_us: int | None
    remote_miss_ratio: float
    local_median_latency_us: int | None = None
    local_p99_latency_us: int | None = None
    remote_median_latency_us: int | None = None
    remote_p99_latency_us: int | None = None
    local_histogram: tuple[tuple[int, int], ...] = ()
    remote_histogram: tuple[tuple[int, int], ...] = ()
    counters: Mapping[str, int] = {}

    @property
    def faults(self) -> int:
        """All of them."""
        return self.local_faults + self.remote_faults

    @classmethod
    def from_native(cls, native: Mapping[str, Any]) -> Self:
        """The native core's dictionary, with what this version has no field for kept among the counters."""
        fields: dict[str, Any] = {}
        counters: dict[str, int] = {}
        for name, value in native.items():
            if name in _FIELDS:
                fields[name] = _histogram(value) if name.endswith("_histogram") else value
            elif isinstance(value, int):
                counters[name] = value
        return cls(**fields, counters=counters)


_FIELDS = frozenset(FaultStats.__struct_fields__) - {"counters"}


def _histogram(buckets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(upper_us), int(count)) for upper_us, count in buckets)
