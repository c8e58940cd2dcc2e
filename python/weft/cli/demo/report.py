"""How the demo looks: its progress, its table, its histograms. Everything is printed here and nothing is decided."""

import bisect

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from weft.cli.demo.corpus import Fingerprint
from weft.cli.demo.reader import Pass, Reading
from weft.dataplane import FaultStats

# The byte histogram's width: sixteen columns of sixteen byte values each.
_BARS = 16
# The fault histogram's columns: under 8 us, under 16 us, doubling, and the last for all that took longer.
_FAULT_LIMITS_US = (8, 16, 32, 64, 128, 256, 512, 1024)
_LEVELS = " ▁▂▃▄▅▆▇█"


def progress_bar(console: Console) -> Progress:
    """A bar for bytes that move."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        transient=False,
    )


def show_reading(console: Console, reading: Reading, region_pages: int) -> None:
    """The table of what the reader measured, and the bytes' histogram."""
    table = Table(title="Read through the mapping by another process", title_justify="left")
    table.add_column("")
    for heading in ("in order", "at random"):
        table.add_column(heading, justify="right")
    ways = (reading.in_order, reading.at_random)
    table.add_row("pages in the region", *(f"{region_pages:,}" for _ in ways))
    table.add_row("pages read", *(f"{way.read_bytes // 4096:,}" for way in ways))
    table.add_row("remote faults", *(f"{way.faults.remote_faults:,}" for way in ways))
    table.add_row("local faults", *(f"{way.faults.local_faults:,}" for way in ways))
    table.add_row("fault, median", *(_microseconds(way.faults.median_latency_us) for way in ways))
    table.add_row("fault, 99th percentile", *(_microseconds(way.faults.p99_latency_us) for way in ways))
    table.add_row("rate", *(_rate(way) for way in ways))
    console.print(table)
    console.print(f"random faults, under 8 us, 16, 32 … 1024, more   {fault_line(reading.at_random.faults)}")
    console.print(f"byte values 0 to 255                             {histogram_line(reading.fingerprint)}")


def fault_line(faults: FaultStats) -> str:
    """How long remote faults took, a column for each doubling."""
    bars = [0] * (len(_FAULT_LIMITS_US) + 1)
    for latency_us, count in faults.remote_histogram:
        bars[bisect.bisect_right(_FAULT_LIMITS_US, latency_us)] += count
    return _line(bars)


def histogram_line(fingerprint: Fingerprint) -> str:
    """How often each byte value stands in what was read, sixteen values a column."""
    width = len(fingerprint.histogram) // _BARS
    return _line(
        [sum(fingerprint.histogram[start : start + width]) for start in range(0, len(fingerprint.histogram), width)]
    )


def _line(bars: list[int]) -> str:
    """A character each, the tallest full; an empty one means none at all."""
    tallest = max(bars) or 1
    return "".join(_LEVELS[-(-count * (len(_LEVELS) - 1) // tallest)] for count in bars)


def _microseconds(latency_us: int | None) -> str:
    return "-" if latency_us is None else f"{latency_us:,} us"


def _rate(way: Pass) -> str:
    return f"{way.megabytes_per_s:,.0f} MB/s"
