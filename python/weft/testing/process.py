"""A simulated process: whose callbacks run, with which clock and which chance, until it ends or is killed.

What a killed process was about to do it never does. Its ports are dead from the first moment, and only then are its
tasks taken away, so that nothing in a `finally` reaches the world any more.
"""

import asyncio
import random
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from weft.testing.clock import ProcessClock
from weft.testing.loop import OWNER, SimulatedLoop

T = TypeVar("T")


class Process:
    """One life of a program on a machine."""

    def __init__(self, loop: SimulatedLoop, name: str, *, seed: str, clock: ProcessClock) -> None:
        self.name = name
        self.clock = clock
        self.chance = random.Random(seed)
        self.alive = True
        self.paused = False
        self.fell_silent = False
        self._loop = loop

    def draw(self, size_bytes: int) -> bytes:
        """Bytes of this process's own chance: the coordinator's `Random`."""
        return self.chance.randbytes(size_bytes)

    @property
    def context(self) -> Context:
        """A fresh context in which everything belongs to this process."""
        context = copy_context()
        context.run(OWNER.set, self)
        return context

    def spawn(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> "asyncio.Task[T]":
        """Begin a task of this process."""
        return self._loop.create_task(coro, name=name or self.name, context=self.context)

    def pause(self) -> None:
        """SIGSTOP: nothing of it runs until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False

    def kill(self, *, silently: bool = False) -> None:
        """End it as SIGKILL does. `silently`: its machine lost power, so that no peer hears that connections ended."""
        self.fell_silent = silently
        self.alive = False
        self.paused = False
        for task in self._loop.tasks_of(self):
            task.cancel()
