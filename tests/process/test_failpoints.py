"""kill -9 at every step of append, acknowledge, snapshot and compaction: nothing acknowledged is lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.test_coordinator_process import Process, environment, seed_node
from weft.testing.failpoints import STEPS

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).parent / "programs" / "killed_coordinator.py"
RESTART_S_MAX = 2.0
NODES = 130
"""Four at a time: should each batch have four, the thirtieth append is passed all the same."""


class Doomed:
    """A coordinator that ends at a step."""

    def __init__(self, directory: Path, step: str, count: int) -> None:
        self.child = subprocess.Popen(
            [sys.executable, str(PROGRAM), step, str(count), "--port", "0", "--data-dir", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert self.child.stdout is not None
        self.url = self.child.stdout.readline().strip().removeprefix("weft coordinator listening on ")

    def load(self) -> set[int]:
        """Register nodes, four at a time, until it is dead. Which were answered."""
        answered: set[int] = set()

        def register(number: int) -> None:
            headers = {"weft-request-id": f"load-{number}"}
            try:
                answer = client.post(f"{self.url}/nodes", json=seed_node(number), headers=headers)
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                answered.add(number)

        with httpx.Client(timeout=5, trust_env=False) as client, ThreadPoolExecutor(4) as pool:
            client.post(f"{self.url}/cluster", json={"name": "c"})
            list(pool.map(register, range(NODES)))
        return answered


@pytest.fixture
def ended() -> Iterator[list[Any]]:
    """What is to be ended at the end, come what may."""
    started: list[Any] = []
    yield started
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
        process.child.communicate(timeout=20)
        if isinstance(process, Process):
            process.client.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_this_step_loses_nothing_that_was_acknowledged(tmp_path: Path, step: str, ended: list[Any]) -> None:
    count = 30 if step.startswith("append") else 3 if not step.startswith("trim") else 1
    doomed = Doomed(tmp_path, step, count)
    ended.append(doomed)
    answered = doomed.load()
    assert doomed.child.wait(timeout=20) == -9, "the step was passed"
    began_s = time.monotonic()
    again = Process(tmp_path)
    took_s = time.monotonic() - began_s
    ended.append(again)
    assert took_s < RESTART_S_MAX
    nodes = {int(member["node_id"]) for member in again.client.get("/cluster").json()["members"]}
    assert answered <= nodes
    assert len(answered) > 5
    assert again.client.post("/state/rebuild", json={}).json()["same"]
    for number in {*range(5), *(set(range(NODES)) - answered)}:
        repeat = again.post("/nodes", seed_node(number), **{"weft-request-id": f"load-{number}"})
        assert repeat.status_code == 200, "a request that was repeated is answered, and has one effect"
    assert again.client.get("/cluster").json()["nodes"] == NODES
