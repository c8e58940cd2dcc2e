"""Waiting for the state to become something: woken by every merge, never longer than asked, and let go at the end."""

import asyncio
from collections.abc import Callable

from weft.coordinator.ports import Clock


class Changes:
    """Those who wait for a merge or for news of a beat."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()
        self._draining = False

    @property
    def is_draining(self) -> bool:
        """Whether the process is stopping."""
        return self._draining

    def notice(self) -> None:
        """Have everybody look again."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def drain(self) -> None:
        """The process is stopping: nobody waits from now on."""
        self._draining = True
        self.notice()

    async def until(self, holds: Callable[[], bool], wait_ms: int) -> bool:
        """Wait until something holds, or the time has passed; says which."""
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while not holds():
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0 or self._draining:
                return False
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            await asyncio.wait({future}, timeout=left_ms / 1_000)
            self._waiting.discard(future)
        return True
