"""Ctrl-C in a demo, wherever it lands."""

import os
import signal
import subprocess
import sys
import time

import pytest

from weft.cli.demo.interrupt import stopped_in_order
from weft.cli.failure import CommandFailed

DEADLINE_S = 20.0

# A destructor is where Python drops what is raised.
SWALLOWING = """
import os, signal, time
from weft.cli.demo.interrupt import stopped_in_order
from weft.cli.failure import CommandFailed

class Ending:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

try:
    with stopped_in_order():
        Ending()
        time.sleep(15)
except CommandFailed as stopped:
    print(stopped)
"""


def test_an_interrupt_that_lands_where_python_drops_it_is_raised_again() -> None:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", SWALLOWING], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ended.stdout.startswith("stopped; every process"), ended.stderr
    assert "Exception ignored in" in ended.stderr
    assert time.monotonic() - started < 10


def tell_until(number: signal.Signals) -> None:
    with stopped_in_order():
        os.kill(os.getpid(), number)
        time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_story_that_is_stopped_from_outside_ends_with_a_sentence_and_no_alarm_is_left(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    try:
        with pytest.raises(CommandFailed, match="stopped; every process"):
            tell_until(number)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
