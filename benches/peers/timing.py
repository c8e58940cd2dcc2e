"""What every peer's program shares: the work list, the timing, and the end.

A program is given operations ("read:4096:4000:1": kind, bytes of a range, how often, ranges in one call) and prints
one JSON object: p50 of one call in microseconds for each. All walk over 64 MiB on both sides, touched before;
content that came is compared once. It imports nothing of Weft, because it runs in an environment of its own.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

WALK_BYTES = 64 << 20
PROGRAM_SECONDS_MAX = 60
START_SECONDS_MAX = 10
# A peer that is starved of CPUs by its own spinning would take minutes for what takes others a second.
OPERATION_SECONDS_MAX = 4
CALLS_MIN = 7
PR_SET_PDEATHSIG = 1
FILLED = 0x5A


class Operation(NamedTuple):
    kind: str
    size_bytes: int
    count: int
    ranges: int

    @classmethod
    def parse(cls, text: str) -> "Operation":
        kind, *numbers = text.split(":")
        return cls(kind, *map(int, numbers))

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.size_bytes}:{self.count}:{self.ranges}"

    def offsets(self, index: int) -> list[int]:
        """Where the ranges of call `index` lie: side by side for one; every other piece for many, so none touch."""
        start = index * self.size_bytes * self.ranges % WALK_BYTES
        step = 1 if self.ranges == 1 else 2
        return [(start + piece * step * self.size_bytes) % WALK_BYTES for piece in range(self.ranges)]


def operations() -> list[Operation]:
    signal.alarm(PROGRAM_SECONDS_MAX)
    return [Operation.parse(text) for text in sys.argv[1:]]


def measure(operation: Operation, call: Callable[[int], None]) -> float:
    """The median of the calls, after a tenth of them that does not count; fewer calls where they take too long."""
    took: list[int] = []
    ends_at = time.perf_counter() + OPERATION_SECONDS_MAX
    for index in range(operation.count + operation.count // 10 + 1):
        started = time.perf_counter_ns()
        call(index)
        took.append(time.perf_counter_ns() - started)
        if len(took) > CALLS_MIN and time.perf_counter() > ends_at:
            break
    took = sorted(took[len(took) // 10 + 1 :])
    return took[len(took) // 2] / 1e3


def finish(results: dict[str, float]) -> NoReturn:
    """Prints and ends at once: some peers' clean-up at exit takes seconds, or crashes."""
    print(json.dumps(results), flush=True)
    os._exit(0)


def end_with_parent() -> None:
    """The process dies with the one that started it, and in any case after the longest a program may take."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(PROGRAM_SECONDS_MAX)


def beside(*arguments: str) -> subprocess.Popen[str]:
    """The other end: this same program with other arguments, in a process of its own."""
    command = [sys.executable, *sys.orig_argv[1 : -len(sys.argv[1:]) or None], *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def daemon(command: list[str]) -> subprocess.Popen[bytes]:
    """A server from a package, which dies with this process."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=end_with_parent)
