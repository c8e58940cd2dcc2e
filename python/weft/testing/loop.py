"""An asyncio event loop whose time is virtual: it never waits, and one seed gives one run.

Where asyncio promises an order, it is kept: what one process calls soon runs in the order it was called. Where asyncio
promises none, the seed decides: which of several processes goes on first, and which of two timers of the same moment.
Futures and tasks are numbered and hash by their number, so that a set of them is walked in the same order every run.

A process that is paused keeps its callbacks until it is resumed, as one that got SIGSTOP does: its timers ring late.
There are no threads. What a shell hands to an executor is done at once, and its result arrives a moment later.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_EXECUTOR_S_MAX: Final = 0.002
"""What a call in a thread takes, at most: a small file operation."""
_CALLBACKS_MAX: Final = 2_000_000
"""Callbacks without a step of time in between. Past it somebody spins, and time would stand still for ever."""


class Owner(Protocol):
    """Whose callbacks these are."""

    @property
    def paused(self) -> bool:
        """Whether they are kept for later."""
        ...

    @property
    def alive(self) -> bool:
        """Whether anybody is left to mind."""
        ...


OWNER: Final[ContextVar["Owner | None"]] = ContextVar("owner", default=None)
"""The process the running code belongs to. Tasks and timers inherit it, as everything in a context does."""


class StuckError(Exception):
    """Nothing is left to happen and what was waited for has not, or somebody spins without letting time pass."""


class NumberedFuture(asyncio.Future[T]):
    """A future that hashes by its number, and knows whose it is."""

    def __init__(self, number: int, owner: Owner | None, *, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.owner = owner
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class NumberedTask(asyncio.Task[T]):
    """A task that hashes by its number, and knows whose it is."""

    def __init__(
        self,
        number: int,
        owner: Owner | None,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: asyncio.AbstractEventLoop,
        name: object,
        context: Context | None,
    ) -> None:
        self.number = number
        self.owner = owner
        super().__init__(coro, loop=loop, name=str(name or f"task-{number}"), context=context)

    def __hash__(self) -> int:
        return self.number


if TYPE_CHECKING:
    # As far as types go, the abstract loop cannot be made without sockets, signals and subprocesses. A simulated
    # process has none of them, and asking for one is the NotImplementedError that the abstract loop raises.
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = asyncio.AbstractEventLoop


class SimulatedLoop(_Loop):
    """Runs callbacks, and moves its clock to the next timer when there are none left."""

    def __init__(self, seed: int | str = 0) -> None:
        self.mishaps: list[str] = []
        self._random = random.Random(f"loop {seed}")
        self._now_s = 0.0
        self._number = 0
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._ready: dict[Owner | None, deque[asyncio.Handle]] = {}
        self._running = False
        self._stopping = False
        self._closed = False
        self._since_step = 0

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def run_for(self, duration_s: float) -> None:
        """Live through so much time."""
        self.run_until(lambda: False, duration_s)

    def run_until(self, holds: Callable[[], bool], limit_s: float) -> bool:
        """Live until something holds, looked at whenever time is about to pass, or for so long; says which."""
        deadline_s = self._now_s + limit_s
        self._enter()
        try:
            while True:
                self._run_ready()
                if holds():
                    return True
                if not self._pass_time(deadline_s):
                    return holds()
        finally:
            self._leave()

    def run_until_complete(self, future: Any) -> Any:
        """Live until a future or a coroutine is done; its result. What asyncio's own runner asks for."""
        awaited: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        self._enter()
        try:
            while not awaited.done():
                self._run_ready(awaited.done)
                if not awaited.done() and not self._pass_time(float("inf")):
                    raise StuckError("nothing is left to happen, and what was waited for has not")
        finally:
            self._leave()
        return awaited.result()

    def run_forever(self) -> None:
        """Live until `stop`, or until nothing is left to happen."""
        self._stopping = False
        self._enter()
        try:
            while not self._stopping:
                self._run_ready(lambda: self._stopping)
                if not self._stopping and not self._pass_time(float("inf")):
                    return
        finally:
            self._leave()

    def stop(self) -> None:
        """End `run_forever` after the callback that runs."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether callbacks run now."""
        return self._running

    def is_closed(self) -> bool:
        """Whether the world has ended."""
        return self._closed

    def close(self) -> None:
        """End the world; what waits is dropped."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        """Nothing is kept of them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 — asyncio's signature.
        """There is none."""

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback after those its process has called before it."""
        handle = asyncio.Handle(callback, args, self, context)
        self._put(handle, OWNER.get() if context is None else context.get(OWNER))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """The same: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback after a while."""
        return self.call_at(self._now_s + max(0.0, delay), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback at a time. Two of the same moment run in an order the seed draws."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._random.random(), self._number, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a number."""
        self._number += 1
        return NumberedFuture(self._number, OWNER.get(), loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """A task with a number, of the process that makes it."""
        self._number += 1
        owner = OWNER.get() if context is None else context.get(OWNER)
        return NumberedTask(self._number, owner, coro, loop=self, name=name, context=context)

    def run_in_executor(
        self,
        executor: Any,  # noqa: ARG002
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Do it at once; the result arrives a moment later, as one from a thread does."""
        future: asyncio.Future[T] = self.create_future()
        result: T | None = None
        error: Exception | None = None
        try:
            result = func(*args)
        except Exception as caught:
            error = caught
        self.call_later(self._random.random() * _EXECUTOR_S_MAX, _settle, future, result, error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody looked at, for the simulator to fail on. A killed process had no time left to look."""
        owner = getattr(context.get("future") or context.get("task"), "owner", None)
        if owner is not None and not owner.alive:
            return
        error = context.get("exception")
        self.mishaps.append(f"{context.get('message')}: {error!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """The same."""
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        """Never: debugging draws on real time."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Not heeded."""

    def tasks_of(self, owner: Owner) -> list[asyncio.Task[Any]]:
        """The unfinished tasks of a process, oldest first."""
        mine = {
            task.number: task
            for task in asyncio.all_tasks(self)
            if isinstance(task, NumberedTask) and task.owner is owner
        }
        return [mine[number] for number in sorted(mine)]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its moment comes."""

    def _put(self, handle: asyncio.Handle, owner: Owner | None) -> None:
        waiting = self._ready.get(owner)
        if waiting is None:
            waiting = self._ready[owner] = deque()
        waiting.append(handle)

    def _enter(self) -> None:
        assert not self._running, "a loop runs once at a time"
        assert not self._closed, "a closed loop runs no more"
        self._running = True
        asyncio._set_running_loop(self)

    def _leave(self) -> None:
        self._running = False
        asyncio._set_running_loop(None)

    def _run_ready(self, enough: Callable[[], bool] | None = None) -> None:
        """Run callbacks, one process after the other in an order the seed draws, until none is ready."""
        ready = self._ready
        while True:
            owners = [owner for owner, waiting in ready.items() if waiting and (owner is None or not owner.paused)]
            if not owners:
                return
            owner = owners[0] if len(owners) == 1 else owners[int(self._random.random() * len(owners))]
            waiting = ready[owner]
            # A turn: what is ready of one process now. What it calls soon meanwhile comes with its next turn.
            for _ in range(len(waiting)):
                handle = waiting.popleft()
                if not handle.cancelled():
                    handle._run()
                if enough is not None and enough():
                    return
            self._since_step += 1
            if self._since_step > _CALLBACKS_MAX:
                raise StuckError("callbacks follow each other and no time passes")
            if not waiting and owner is not None:
                ready.pop(owner, None)

    def _pass_time(self, deadline_s: float) -> bool:
        """Move to the next timer, or to the deadline when that comes first; False then."""
        timers = self._timers
        while timers and timers[0][3].cancelled():
            heapq.heappop(timers)
        self._since_step = 0
        if not timers or timers[0][0] > deadline_s:
            if deadline_s != float("inf"):
                self._now_s = max(self._now_s, deadline_s)
            return False
        self._now_s = max(self._now_s, timers[0][0])
        while timers and timers[0][0] <= self._now_s:
            handle = heapq.heappop(timers)[3]
            if not handle.cancelled():
                self._put(handle, handle._context.get(OWNER))  # type: ignore[attr-defined]
        return True


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
