"""The monitor: looks at every layer at an interval, each by a clock of its own, and hands what it finds to the board.

A check has a deadline. While the primary is in good standing it may take as long as an interval; the one that would
tip the balance has to be quick, so that a primary that stopped answering is known to be out within threshold times
interval and a second, and not an interval later. A layer whose check never returns holds up nobody else's.

What if this process was stopped for a minute? Checks that should have been are not made up for: each layer is looked
at once, and its interval begins anew. What if a check meets a bug? It counts as failed, and the log has it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from weft.ledger.board import Board
from weft.ledger.layer import Layer, LayerHealth
from weft.model.availability import Role, Thresholds
from weft.model.errors import WeftError
from weft.model.policy import PROBE_MS_MAX
from weft.telemetry import Log

_SLACK_MS: Final = 800
"""What the checks of an outage together may take beyond threshold times interval; the rest of a second is the put's."""


class Monitor:
    """Checks layers for as long as it runs."""

    def __init__(
        self, layers: Mapping[Role, Layer], board: Board, thresholds: Thresholds, interval_ms: int, log: Log
    ) -> None:
        self._layers = layers
        self._board = board
        self._thresholds = thresholds
        self._interval_ms = interval_ms
        self._log = log
        self._hurries = {role: asyncio.Event() for role in layers}

    async def look(self, role: Role, patience_ms: int | None = None) -> None:
        """Check one layer now."""
        try:
            async with asyncio.timeout((patience_ms or self.patience_ms(role)) / 1_000):
                health = await self._layers[role].probe()
        except (TimeoutError, WeftError):
            health = LayerHealth.UNAVAILABLE
        except Exception as error:
            self._log.error("a check of a layer met a bug", error, role=role.value)
            health = LayerHealth.UNAVAILABLE
        self._board.observe(role, health)

    async def look_at_all(self) -> None:
        """Check every layer now, quickly: somebody waits for it to start."""
        await asyncio.gather(*(self.look(role, PROBE_MS_MAX) for role in self._layers))

    def hurry(self, role: Role) -> None:
        """Check a layer before its turn: somebody met a failure there."""
        self._hurries[role].set()

    async def run(self) -> None:
        """Check until cancelled."""
        async with asyncio.TaskGroup() as group:
            for role in self._layers:
                group.create_task(self._watch(role), name=f"monitor {role.value}")

    def patience_ms(self, role: Role) -> int:
        """How long a check of a layer may take now."""
        failures = self._thresholds.failures
        quick_ms = min(PROBE_MS_MAX, (self._interval_ms * (failures - 1) + _SLACK_MS) // failures)
        would_tip = role is not Role.PRIMARY or self._board.now.watched.failures + 1 >= failures
        return quick_ms if would_tip else max(quick_ms, self._interval_ms)

    async def _watch(self, role: Role) -> None:
        loop, interval_s, hurry = asyncio.get_running_loop(), self._interval_ms / 1_000, self._hurries[role]
        due_s = loop.time() + interval_s
        while True:
            try:
                async with asyncio.timeout_at(due_s):
                    await hurry.wait()
            except TimeoutError:
                due_s = max(due_s + interval_s, loop.time())
            else:
                hurry.clear()
            await self.look(role)
