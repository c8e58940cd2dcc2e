"""The record of a run: every message, every fault and every batch, a line each, with the virtual time.

Two runs of one seed give the same lines, byte for byte, which is what makes a failure replay. The digest stands for
all of them.
"""

import hashlib
from collections import deque
from typing import TextIO

from weft.testing.loop import SimulatedLoop


class Trace:
    """Takes lines. The last ones are kept for whoever asks why; all of them go to `out` when there is one."""

    def __init__(self, loop: SimulatedLoop, *, out: TextIO | None = None, kept_count: int = 60) -> None:
        self.count = 0
        self._loop = loop
        self._out = out
        self._kept: deque[str] = deque(maxlen=kept_count)
        self._digest = hashlib.sha256()

    def note(self, line: str) -> None:
        """One line."""
        stamped = f"{self._loop.time():.6f} {line}"
        self.count += 1
        self._kept.append(stamped)
        self._digest.update(stamped.encode())
        self._digest.update(b"\n")
        if self._out is not None:
            self._out.write(stamped + "\n")

    @property
    def digest(self) -> str:
        """What stands for every line so far."""
        return self._digest.hexdigest()

    def last(self) -> list[str]:
        """The last lines."""
        return list(self._kept)
