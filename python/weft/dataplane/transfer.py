"""`Transfer`: one movement of bytes, awaited, polled, waited for or cancelled.

It ends done, failed or cancelled, and stays so: asking again answers the same. Awaiting costs no thread: the engine
makes an eventfd readable, and the loop that waits is told which of its transfers ended. No thread of the engine calls
Python.
"""

import asyncio
import weakref
from collections.abc import Generator
from typing import Final, Literal

from weft import _native

State = Literal["queued", "in_flight", "done", "failed", "cancelled"]

_TERMINAL: Final = frozenset({"done", "failed", "cancelled"})


class _Telling:
    """What one event loop waits for: the descriptor it watches, and who is told when a transfer ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.notifier = _native.Notifier()
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        loop.add_reader(self.notifier.fileno(), self._ended)

    async def wait_for(self, loop: asyncio.AbstractEventLoop, native: _native.Transfer) -> None:
        future = loop.create_future()
        # Transfers of two endpoints may have one number; whoever is woken for another's looks and waits on.
        self._waiting.setdefault(native.id, []).append(future)
        native.notify(self.notifier)
        try:
            await future
        finally:
            # Whoever stops waiting is forgotten: a future that is kept would keep its loop.
            left = [other for other in self._waiting.pop(native.id, ()) if other is not future]
            if left:
                self._waiting[native.id] = left

    def _ended(self) -> None:
        for number in self.notifier.take():
            for future in self._waiting.pop(number, ()):
                if not future.done():
                    future.set_result(None)


_tellings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Telling] = weakref.WeakKeyDictionary()


def _telling(loop: asyncio.AbstractEventLoop) -> _Telling:
    found = _tellings.get(loop)
    if found is None:
        found = _tellings[loop] = _Telling(loop)
    return found


class Transfer:
    """One movement of bytes. Its buffers stay in place until it has ended."""

    __slots__ = ("_native",)

    def __init__(self, native: _native.Transfer) -> None:
        self._native = native

    @property
    def state(self) -> State:
        """Where it stands: queued, in_flight, done, failed or cancelled."""
        return self._native.poll()[0]

    def poll(self) -> bool:
        """Whether it has ended. Ask as often as you like; `result` says how."""
        return self._native.poll()[0] in _TERMINAL

    def wait(self, timeout_ms: int | None = None) -> int:
        """Waits until it has ended and returns the bytes it moved.

        Raises what it failed with, `Cancelled`, and `Busy` when `timeout_ms` is over and it is still under way.
        """
        self._native.wait(timeout_ms)
        return self._native.result()

    def result(self) -> int:
        """The bytes it moved. Raises what it failed with, `Cancelled`, and `Busy` while it is under way."""
        return self._native.result()

    def cancel(self) -> None:
        """Takes it back. It ends as cancelled once its buffers are let go of, unless it ends otherwise first."""
        self._native.cancel()

    def __await__(self) -> Generator[object, None, int]:
        """Waits in an event loop. Whoever is cancelled while waiting cancels the transfer."""
        return self._wait().__await__()

    async def _wait(self) -> int:
        loop = asyncio.get_running_loop()
        try:
            while not self.poll():
                await _telling(loop).wait_for(loop, self._native)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._native.result()

    def __repr__(self) -> str:
        state, moved = self._native.poll()
        return f"<Transfer {self._native.id} {state}{f', {moved} bytes' if state == 'done' else ''}>"
