"""Rounds: a floor and Weft in turn, so that a machine that drifts drifts for both; medians of each; their ratio."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Sample = dict[str, float]
ROUNDS = int(os.environ.get("WEFT_BENCH_ROUNDS", "5"))
PROGRAM_SECONDS_MAX = 60


@dataclass
class Row:
    """One figure of both, and what was promised of their ratio."""

    name: str
    unit: str
    bound: str  # "≤ 1.30" for times, "≥ 0.85" for rates, "" where nothing is promised
    floor: list[float] = field(default_factory=list)
    weft: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Weft's median over the floor's."""
        return statistics.median(self.weft) / statistics.median(self.floor)

    @property
    def kept(self) -> bool | None:
        """Whether the promise holds; none where there is none."""
        if not self.bound:
            return None
        sign, limit = self.bound.split()
        return self.ratio <= float(limit) if sign == "≤" else self.ratio >= float(limit)


def in_turn(rows: dict[str, Row], floor: Callable[[], Sample], weft: Callable[[], Sample]) -> list[Row]:
    """Runs both `ROUNDS` times, one after the other; a row takes the sample's value of its key."""
    for _ in range(ROUNDS):
        samples = floor(), weft()
        for key, row in rows.items():
            row.floor.append(samples[0][key])
            row.weft.append(samples[1][key])
    for row in rows.values():
        show(row)
    return list(rows.values())


def floor_program(name: str, *arguments: object) -> Sample:
    """Runs a floor and returns what it measured."""
    path = Path(os.environ.get("WEFT_FLOORS", ".build/floor")) / name
    return measured([str(path), *map(str, arguments)])


def weft_program(module: str, *arguments: object) -> Sample:
    """Runs one of Weft's measuring programs in a process of its own, as the floors are."""
    return measured([sys.executable, "-m", f"benches.{module}", *map(str, arguments)])


def measured(command: list[str]) -> Sample:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return {key: float(value) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}


def heading(text: str) -> None:
    print(f"\n{text}\n{'':34}{'floor':>12}{'weft':>12}{'ratio':>8}  promised", flush=True)


def show(row: Row) -> None:
    mark = {True: "kept", False: "MISSED", None: ""}[row.kept]
    floor, weft = statistics.median(row.floor), statistics.median(row.weft)
    print(
        f"{row.name:<26}{row.unit:>8}{figure(floor):>12}{figure(weft):>12}{row.ratio:>8.2f}  {row.bound:<7}{mark}",
        flush=True,
    )


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
