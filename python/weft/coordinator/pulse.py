"""The pulse: how this process knows that it was stopped for a while, and could hear nobody.

It notes every quarter of a second that it runs. Whoever is about to judge a silence looks first: where the last note is
further back than a timer is ever late, the process was stopped (SIGSTOP, a suspended machine, a pause of its host), and
the time since is taken out of every silence and every lease before anything is said about them. Looking at the judge's
side is what matters: after a stop the requests that waited in the sockets may be answered before any timer rings.

Both readings are of the clock that silences are measured on, so that the two cannot disagree about a stop.
"""

import asyncio
from collections.abc import Callable

from weft.coordinator.ports import Clock
from weft.model.policy import PULSE_MS
from weft.telemetry import Log


class Pulse:
    """Calls `on_stopped` with how long the process was stopped, once for each time and before anybody is judged."""

    def __init__(self, clock: Clock, late_ms_max: int, log: Log) -> None:
        self._clock = clock
        self._late_ms_max = late_ms_max
        self._log = log
        self._listeners: list[Callable[[int], None]] = []
        self._noted_ms: int | None = None

    def on_stopped(self, listener: Callable[[int], None]) -> None:
        """Be told of a stop that is over."""
        self._listeners.append(listener)

    def note(self) -> None:
        """The process runs."""
        self._noted_ms = self._clock.monotonic_ms()

    def look(self) -> None:
        """Find out whether the process was stopped since it last noted that it runs. Nothing before the first note."""
        if self._noted_ms is None:
            return
        now_ms = self._clock.monotonic_ms()
        late_ms = now_ms - self._noted_ms
        if late_ms <= PULSE_MS + self._late_ms_max:
            return
        # Before the listeners are told: they may look themselves.
        self._noted_ms = now_ms
        self._log.warning("this process was stopped for a while; no node is blamed for it", late_ms=late_ms)
        for listener in self._listeners:
            listener(late_ms)

    async def run(self) -> None:
        """For as long as the process runs."""
        while True:
            await asyncio.sleep(PULSE_MS / 1_000)
            self.look()
            self.note()
