"""Ctrl-C that is not lost.

Python drops an exception that is raised in a destructor or in the callback of a weak reference, and imports have such
callbacks: a KeyboardInterrupt that lands there is printed, at most, and the demo would go on to its end. So it is
raised again until somebody has taken it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from weft.cli.failure import CommandFailed

_AGAIN_S: Final = 0.2


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """A demo's story runs in here. Raises CommandFailed when it is stopped from outside, after all `with`s have ended.

    A terminal that closes and a supervisor that ends us are answered as Ctrl-C is.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _raise)
    try:
        yield
    except KeyboardInterrupt:
        raise CommandFailed("stopped; every process of the demo was ended") from None
    finally:
        take_interrupt()


def take_interrupt() -> None:
    """From here on the interrupt is not raised again: whoever takes it ends what it has begun, undisturbed."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what a handler is called with.
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    raise KeyboardInterrupt
