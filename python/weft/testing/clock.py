"""The clocks of one simulated process: one that people read and that may jump, one that only grows.

It serves both ports a shell may ask for, the coordinator's (milliseconds) and the client's (seconds, and a wait).
"""

import asyncio
from typing import Final

from weft.testing.loop import SimulatedLoop

EPOCH_MS: Final = 1_700_000_000_000
"""When a world begins, by the clock on the wall."""


class ProcessClock:
    """Virtual time as one machine sees it. `started_s` is what its monotonic clock showed at the beginning."""

    def __init__(self, loop: SimulatedLoop, *, started_s: float = 0.0, skew_ms: int = 0) -> None:
        self._loop = loop
        self._started_s = started_s
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970, as far as this machine knows."""
        return EPOCH_MS + int(self._loop.time() * 1_000) + self._skew_ms

    def monotonic_ms(self) -> int:
        """Milliseconds that only grow."""
        return int((self._started_s + self._loop.time()) * 1_000)

    def now_s(self) -> float:
        """Seconds that only grow."""
        return self._started_s + self._loop.time()

    async def sleep(self, duration_s: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(duration_s)

    def jump(self, by_ms: int) -> None:
        """Somebody sets the clock on the wall."""
        self._skew_ms += by_ms
