"""`make bench`: paging, transfers under both congestion controls, under TLS and between neighbours, the registry, the
control plane, journals, commitments and unpacking.

It prints a table and leaves JSON beside it.

The machine's floors are run in turn with Weft, so the ratios hold where the absolute figures drift.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path

from benches import budgets, commitments, control, journals, neighbours, registry, tls, unpack
from benches.rounds import ROUNDS, Row, floor_program, heading, in_turn, weft_program

OUT = Path(os.environ.get("WEFT_BENCH_OUT", "benches/out"))
PAGED_RANDOM, PAGED_IN_ORDER = 6_000, 131_072
KIB, MIB = 1 << 10, 1 << 20
SIZES = ((4 * KIB, 8_000), (64 * KIB, 3_000), (MIB, 300), (64 * MIB, 9))


def paging() -> list[Row]:
    heading(f"paging (a touch from Python; {PAGED_RANDOM} random pages, {PAGED_IN_ORDER} in order; cubic)")
    os.environ["WEFT_TCP_CONGESTION"] = "cubic"
    rows: list[Row] = []
    for placement, name, bound in (("one_cpu", "random, one CPU", "≤ 1.30"), ("unpinned", "random, default", "≤ 0.75")):
        rows += in_turn(
            {"p50_us": Row(name, "µs", bound)},
            lambda: floor_program("paging", placement, "random", 1, 0, PAGED_RANDOM, "cubic"),  # noqa: B023
            lambda: weft_program("fault", placement, "random", PAGED_RANDOM),  # noqa: B023
        )
    rows += in_turn(
        {"pages_per_s": Row("in order, default", "pages/s", "≥ 0.75")},
        lambda: floor_program("paging", "unpinned", "in_order", 64, 1, PAGED_IN_ORDER, "cubic"),
        lambda: weft_program("fault", "unpinned", "in_order", PAGED_IN_ORDER),
    )
    return rows


def transfers(congestion: str, buffer_kib: int) -> list[Row]:
    buffers = f"floor with {buffer_kib} KiB buffers" if buffer_kib else "the kernel's own buffers"
    heading(f"one-sided, from Python, loopback, {congestion} ({buffers})")
    os.environ["WEFT_TCP_CONGESTION"] = congestion
    rows: list[Row] = []
    for operation in ("read", "write"):
        for size_bytes, count in SIZES:
            small = size_bytes == 4 * KIB
            key = "p50_us" if small else "gb_per_s"
            bound = "≤ 1.30" if small else "≥ 0.85" if size_bytes >= MIB else ""
            size = f"{size_bytes // KIB} KiB" if size_bytes < MIB else f"{size_bytes // MIB} MiB"
            row = Row(f"{operation} {size}", "µs" if small else "GB/s", bound if operation == "read" else "")
            rows += in_turn(
                {key: row},
                lambda: floor_program("net", operation, size_bytes, count, congestion, buffer_kib),  # noqa: B023
                lambda: weft_program("move", operation, size_bytes, count),  # noqa: B023
            )
    rows += in_turn(
        {"gb_per_s": Row("read sixteen 4 KiB", "GB/s", "")},
        lambda: floor_program("net", "read", 64 * KIB, 3_000, congestion, buffer_kib),
        lambda: weft_program("move", "read", 4 * KIB, 3_000, 16),
    )
    return rows


def main() -> None:
    started = time.time()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} CPUs, Linux {platform.release()}, {ROUNDS} rounds")
    wanted = sys.argv[1:] or [
        "paging", "cubic", "bbr", "tls", "neighbours", "registry", "control", "budgets", "journals", "commitments",
        "unpack",
    ]  # fmt: skip
    suites = {
        "paging": paging,
        "cubic": lambda: transfers("cubic", 0),
        "bbr": lambda: transfers("bbr", 128),
        "tls": tls.run,
        "neighbours": neighbours.run,
        "registry": registry.run,
        "control": control.run,
        "journals": journals.run,
        "commitments": commitments.run,
        "budgets": budgets.run,
        "unpack": unpack.run,
    }
    results = {name: [vars(row) | {"ratio": row.ratio, "kept": row.kept} for row in suites[name]()] for name in wanted}
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "bench.json"
    path.write_text(json.dumps({"at": started, "rounds": ROUNDS, "suites": results}, indent=1, ensure_ascii=False))
    missed = [row["name"] for rows in results.values() for row in rows if row["kept"] is False]
    print(f"\n{path} has every sample. " + (f"Missed: {', '.join(missed)}." if missed else "Every promise was kept."))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
