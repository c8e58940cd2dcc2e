"""The native core's numbers as a struct, by the seed's names."""

from weft.dataplane import FaultStats


def test_the_seeds_numbers_keep_their_names_and_the_rest_are_counters() -> None:
    stats = FaultStats.from_native(
        {
            "local_faults": 1,
            "remote_faults": 3,
            "median_latency_us": 40,
            "p99_latency_us": 90,
            "remote_miss_ratio": 0.75,
            "remote_histogram": [(64, 2), (128, 1)],
            "pages_ahead": 12,
        }
    )

    assert (stats.faults, stats.remote_miss_ratio, stats.median_latency_us) == (4, 0.75, 40)
    assert stats.remote_histogram == ((64, 2), (128, 1))
    assert stats.counters == {"pages_ahead": 12}


def test_before_the_first_fault_there_is_no_latency() -> None:
    stats = FaultStats.from_native(
        {
            "local_faults": 0,
            "remote_faults": 0,
            "median_latency_us": None,
            "p99_latency_us": None,
            "remote_miss_ratio": 0.0,
        }
    )

    assert (stats.median_latency_us, stats.p99_latency_us, stats.remote_miss_ratio) == (None, None, 0.0)
