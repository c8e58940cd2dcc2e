"""`make bench-peers`: the floor, the peers and Weft, one after the other, round after round, in one table.

CPU memory over loopback TCP, from Python, each in its default configuration, under cubic and under bbr. The machine
drifts, so only figures of one run are compared: a round runs everybody once, and the table shows medians over rounds.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benches.peers import environment
from benches.peers.timing import PROGRAM_SECONDS_MAX, Operation
from benches.rounds import ROUNDS, figure

KIB, MIB = 1 << 10, 1 << 20
OUT = Path(os.environ.get("WEFT_BENCH_OUT", "benches/out"))
FLOORS = Path(os.environ.get("WEFT_FLOORS", ".build/floor"))
HERE = Path(__file__).parent
# Besides a program's own alarm, which ends it in order.
KILL_AFTER_SECONDS = PROGRAM_SECONDS_MAX + 10
BBR_BUFFER_KIB = 128
FAILURES_MAX = 2


@dataclass(frozen=True)
class Line:
    """One row of the table: an operation, in which unit, and what Weft promises of it."""

    name: str
    operation: Operation
    floor: Operation  # What the floor does for it; sixteen small reads in one call are one of their sum.
    unit: str
    bound: str
    ahead_of: str  # "all", one peer, or nobody.

    def value(self, microseconds: float) -> float:
        moved = self.operation.size_bytes * self.operation.ranges
        return microseconds if self.unit == "µs" else moved / microseconds / 1e3


def lines() -> list[Line]:
    small, batch = Operation("read", 4 * KIB, 4_000, 1), Operation("read", 4 * KIB, 2_000, 16)
    medium = Operation("read", 64 * KIB, 2_000, 1)
    large, huge = Operation("read", MIB, 300, 1), Operation("read", 64 * MIB, 7, 1)
    written = Operation("write", 64 * MIB, 7, 1)
    return [
        Line("read 4 KiB", small, small, "µs", "≤ 1.30", "NIXL"),
        Line("read sixteen 4 KiB", batch, medium, "GB/s", "", ""),
        Line("read 64 KiB", medium, medium, "GB/s", "≥ 0.90", "all"),
        Line("read 1 MiB", large, large, "GB/s", "≥ 0.90", "all"),
        Line("read 64 MiB", huge, huge, "GB/s", "≥ 0.90", "all"),
        Line("write 64 MiB", written, written, "GB/s", "≥ 0.90", "all"),
    ]


@dataclass
class Party:
    """Somebody who is measured, or the reason why not."""

    name: str
    run: Callable[[], dict[str, float]]
    why_not: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def sample(self) -> None:
        """One round. Whoever fails twice says why and is not asked again: a median of few rounds would be of luck."""
        if self.why_not:
            return
        try:
            results = self.run()
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            self.failures.append(" ".join(str(error).split())[:200])
            if len(self.failures) == FAILURES_MAX:
                self.why_not = self.failures[-1]
            return
        for name, value in results.items():
            self.samples.setdefault(name, []).append(value)

    def median(self, line: Line, *, of_floor: bool = False) -> float | None:
        taken = self.samples.get((line.floor if of_floor else line.operation).name)
        return line.value(statistics.median(taken)) if taken and not self.why_not else None


def output_of(command: list[str], extra: dict[str, str]) -> dict[str, float]:
    """The last line a program prints, as JSON. Whatever it started dies with it."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **extra}
    )
    try:
        printed, said = process.communicate(timeout=KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0 or not printed.strip():
        told = said.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise RuntimeError(told[-1])
    return {name: float(value) for name, value in json.loads(printed.splitlines()[-1]).items()}


def floor(congestion: str, buffer_kib: int) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        results = {}
        for operation in {line.floor for line in lines()}:
            numbers = [str(operation.size_bytes), str(operation.count), congestion, str(buffer_kib)]
            results[operation.name] = output_of([str(FLOORS / "net"), operation.kind, *numbers], {})["p50_us"]
        return results

    return run


def parties(congestion: str, buffer_kib: int) -> list[Party]:
    asked = [line.operation.name for line in lines()]
    interpreter, missing = environment.python()
    shim, no_shim = environment.preload()
    redis, no_redis = environment.server("redis-server", ("redis-server", "redis-tools"))
    memcached, no_memcached = environment.server("memcached", ("memcached",))
    extra = {
        "LD_PRELOAD": str(shim),
        "PEERS_CONGESTION": congestion,
        "PEERS_REDIS": redis,
        "PEERS_MEMCACHED": memcached,
        "LD_LIBRARY_PATH": environment.library_path(),
        "PYTHONPATH": "",
    }

    def peer(name: str, program: str, why_not: str) -> Party:
        command = [str(interpreter), str(HERE / program), *asked]
        return Party(name, lambda: output_of(command, extra), why_not or no_shim)

    weft = [sys.executable, "-m", "benches.peers.ask_weft", *asked]
    return [
        Party("floor", floor(congestion, buffer_kib)),
        peer("NIXL", "ask_nixl.py", missing.get("nixl-cu12", "")),
        peer("Mooncake", "ask_mooncake.py", missing.get("mooncake-transfer-engine-non-cuda", "")),
        peer("redis", "ask_redis.py", no_redis),
        peer("memcached", "ask_memcached.py", no_memcached),
        Party("Weft", lambda: output_of(weft, {"WEFT_TCP_CONGESTION": congestion})),
    ]


def judge(line: Line, everybody: list[Party]) -> tuple[float | None, list[str]]:
    """Weft's ratio to the floor, and what of its promises did not hold."""
    the_floor, *peers, weft = everybody
    ours, base = weft.median(line), the_floor.median(line, of_floor=True)
    if ours is None or base is None:
        return None, ["not measured"]
    ratio, missed = ours / base, []
    if line.bound:
        sign, limit = line.bound.split()
        if not (ratio <= float(limit) if sign == "≤" else ratio >= float(limit)):
            missed.append(f"{line.bound} of the floor")
    for peer in peers:
        theirs = peer.median(line)
        if theirs is None or line.ahead_of not in ("all", peer.name):
            continue
        if not (ours < theirs if line.unit == "µs" else ours > theirs):
            missed.append(f"behind {peer.name}")
    return ratio, missed


def compare(congestion: str, buffer_kib: int) -> dict[str, object]:
    everybody = parties(congestion, buffer_kib)
    buffers = f", floor with {buffer_kib} KiB buffers" if buffer_kib else ""
    print(f"\n{congestion}{buffers}, {ROUNDS} rounds", flush=True)
    for number in range(ROUNDS):
        for party in everybody:
            party.sample()
        print(f"  round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    print(f"{'':20}{'':6}" + "".join(f"{party.name:>11}" for party in everybody) + f"{'ratio':>8}  promised")
    missed_lines = []
    for line in lines():
        values = [party.median(line, of_floor=party.name == "floor") for party in everybody]
        ratio, missed = judge(line, everybody)
        shown = "".join(f"{'-' if value is None else figure(value):>11}" for value in values)
        ratio_shown = "-" if ratio is None else f"{ratio:.2f}"
        promised = " and ".join(filter(None, (line.bound, line.ahead_of and f"ahead of {line.ahead_of}")))
        verdict = ("MISSED: " + ", ".join(missed) if missed else "kept") if promised else ""
        print(f"{line.name:20}{line.unit:>6}{shown}{ratio_shown:>8}  {promised:<24} {verdict}", flush=True)
        missed_lines += [f"{line.name} under {congestion}: {what}" for what in missed] if promised else []
    missed_lines += batch_promise(everybody[-1], congestion)
    for party in everybody:
        if party.why_not:
            print(f"  {party.name} was not measured: {party.why_not}")
        elif party.failures:
            print(f"  {party.name} failed in a round, which does not count: {party.failures[0]}")
    return {
        "congestion": congestion,
        "missed": missed_lines,
        "parties": {party.name: {"why_not": party.why_not, "p50_us": party.samples} for party in everybody},
    }


def batch_promise(weft: Party, congestion: str) -> list[str]:
    """Sixteen small reads in one call, beside Weft's own read of their sum."""
    found = {line.name: weft.median(line) for line in lines()}
    batch, whole = found["read sixteen 4 KiB"], found["read 64 KiB"]
    if batch is None or whole is None:
        return []
    kept = batch >= 0.75 * whole
    verdict = "kept" if kept else "MISSED"
    print(f"sixteen 4 KiB reads in one call: {batch / whole:.2f} of a 64 KiB read's rate (promised ≥ 0.75) {verdict}")
    return [] if kept else [f"sixteen 4 KiB under {congestion}: {batch / whole:.2f} of a 64 KiB read"]


def main() -> None:
    started = time.time()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
    print("CPU memory, loopback TCP, from Python, defaults; µs: less is better, GB/s: more is better")
    wanted = sys.argv[1:] or ["cubic", "bbr"]
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    results = []
    for congestion in wanted:
        if congestion not in available:
            print(f"\n{congestion} is not in this kernel ({', '.join(available)}): not compared")
            continue
        results.append(compare(congestion, BBR_BUFFER_KIB if congestion == "bbr" else 0))
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "peers.json"
    path.write_text(json.dumps({"at": started, "rounds": ROUNDS, "results": results}, indent=1, ensure_ascii=False))
    missed = [what for result in results for what in result["missed"]]  # type: ignore[attr-defined]
    print(f"\n{path} has every sample. " + (f"Missed: {'; '.join(missed)}." if missed else "Every promise was kept."))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
