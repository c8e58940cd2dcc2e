"""Reads between two processes of one machine: `make bench`'s suite. The floor is one memcpy inside one process.

Memory that Weft allocated is mapped by the reader; memory of the program's own, registered, is copied by the kernel,
whose price is not in the floor. Then what is promised of both, each beside its promise.
"""

from benches.rounds import Row, floor_program, heading, in_turn, show, weft_program

KIB, MIB = 1 << 10, 1 << 20
SIZES = ((4 * KIB, "p50_us", "µs", 20_000), (64 * KIB, "gb_per_s", "GB/s", 5_000), (MIB, "gb_per_s", "GB/s", 600))
SMALL_READ_US_MAX = 3.0
BULK_READ_GB_PER_S_MIN = 15.0


def run() -> list[Row]:
    heading("neighbours (reads from Python; the floor is memcpy in one process)")
    rows: list[Row] = []
    for way, memory in (("mapped", "allocated"), ("ipc", "registered")):
        for size_bytes, key, unit, count in SIZES:
            for pace in ("hot", "walk"):
                row = Row(f"{memory} {size_bytes // KIB} KiB, {pace}", unit, "")
                rows += in_turn(
                    {key: row},
                    lambda: floor_program("copy", pace, size_bytes, count),  # noqa: B023
                    lambda: weft_program("endpoint", "read", size_bytes, count, way, pace),  # noqa: B023
                )
    heading("neighbours: what is promised (the floor is the promise)")
    return rows + promises(rows)


def promises(measured: list[Row]) -> list[Row]:
    """The same samples beside what is promised of them."""
    made = []
    for row in measured:
        if " 4 KiB" in row.name:
            made.append(Row(row.name, row.unit, "≤ 1.00", floor=[SMALL_READ_US_MAX], weft=row.weft))
        elif row.name.startswith("allocated 64 KiB"):
            made.append(Row(row.name, row.unit, "≥ 1.00", floor=[BULK_READ_GB_PER_S_MIN], weft=row.weft))
    for row in made:
        show(row)
    return made
