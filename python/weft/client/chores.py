"""Small things done again and again beside a program's own work, in one daemon thread: renewing, refreshing.

A chore is a function that does its work and returns the seconds until it is due again, or None when it is done for
good. A chore handles its own errors; what escapes one is a defect, is logged, and ends that chore alone.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence

Chore = Callable[[], float | None]

_log = logging.getLogger(__name__)

# How long `stop` waits for a chore that is in the middle of a request; the thread is a daemon and may outlive it.
_STOP_S = 1.0


class Chores:
    """A thread with a list of chores, each first due when the thread starts."""

    def __init__(self, name: str, chores: Sequence[Chore]) -> None:
        self._name = name
        self._stopped = threading.Event()
        started_s = time.monotonic()
        self._due: list[tuple[float, int, Chore]] = [(started_s, order, chore) for order, chore in enumerate(chores)]
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends soon. May be called from a chore itself, and twice."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_S)

    def _work(self) -> None:
        while self._due and not self._stopped.is_set():
            due_s, order, chore = self._due[0]
            if self._stopped.wait(max(0.0, due_s - time.monotonic())):
                return
            heapq.heappop(self._due)
            try:
                again_s = chore()
            except Exception:
                _log.exception("a chore of %s failed and is not tried again", self._name)
                continue
            if again_s is not None:
                heapq.heappush(self._due, (time.monotonic() + again_s, order, chore))
