"""The time a verb has: one deadline for everything that is done on its behalf."""

import asyncio

from weft.ledger.layers.ports import Clock
from weft.model.errors import LayerFailed


class Deadline:
    """A moment on a clock that only grows."""

    def __init__(self, clock: Clock, timeout_ms: int, layer: str) -> None:
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._layer = layer
        self._ends_at_ms = clock.monotonic_ms() + timeout_ms

    @property
    def left_ms(self) -> int:
        """What is left of it; never below zero."""
        return max(0, self._ends_at_ms - self._clock.monotonic_ms())

    def check(self) -> int:
        """What is left of it. Raises `LayerFailed` when nothing is."""
        left_ms = self.left_ms
        if left_ms == 0:
            raise LayerFailed(
                f"the {self._layer} layer was not done in {self._timeout_ms} ms; see DA_TIMEOUT_MS", layer=self._layer
            )
        return left_ms

    async def pause(self, pause_ms: int) -> None:
        """Wait so long, or as long as there is."""
        await asyncio.sleep(min(pause_ms, self.left_ms) / 1_000)
