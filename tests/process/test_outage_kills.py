"""kill -9 of a coordinator at every step of shipping its log, of an outage and of the way back: nothing is lost.

Real processes: a coordinator, and two servers that keep blobs as its primary and its secondary layer. The primary is
killed and comes back; the coordinator ends at the step and begins again on its disk.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.test_coordinator_process import environment
from weft.testing.failpoints import SHIPPING_STEPS

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).parent / "programs" / "killed_shipper.py"
SEEN_S = 20.0
RESTART_S_MAX = 2.0
COUNTS = {"ship": 6, "fall": 2, "list": 2, "bring": 3, "settle": 1}


class Server:
    """A server that keeps blobs, which can be killed and come back."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.child = subprocess.Popen(
            [sys.executable, "-m", "weft.witness", "emergency", "--port", str(port), "--data", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert self.child.stdout is not None
        self.url = self.child.stdout.readline().strip().rpartition(" ")[2]
        self.port = int(re.findall(r":(\d+)$", self.url)[0])


class Coordinator:
    """A coordinator on two servers, which may be one that ends at a step."""

    def __init__(self, directory: Path, primary: str, secondary: str, step: str = "-", count: int = 1) -> None:
        env = {
            "TEST_PRIMARY_URL": primary,
            "TEST_SECONDARY_URL": secondary,
            "WEFT_DA_CHECK_INTERVAL_MS": "100",
            "WEFT_DA_FAILURE_THRESHOLD": "2",
            "RECONCILE_RETRY_DELAY_MS": "50",
            "RECONCILE_BATCH_SIZE": "3",
        }
        self.child = subprocess.Popen(
            [sys.executable, str(PROGRAM), step, str(count), "--port", "0", "--data-dir", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment(), **env, "PATH": os.environ["PATH"]},
        )
        assert self.child.stdout is not None
        url = self.child.stdout.readline().strip().removeprefix("weft coordinator listening on ")
        self.client = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def get(self, path: str) -> Any:
        return self.client.get(path).json()

    def register(self, names: list[str]) -> list[str]:
        """Register nodes one by one until it is dead; which were acknowledged."""
        done = []
        for name in names:
            body = {"id": name, "zone": "a", "addr": "127.0.0.1:1", "capacity_gb": 1}
            try:
                if self.client.post("/register", json=body, headers={"weft-request-id": name}).status_code == 200:
                    done.append(name)
            except httpx.HTTPError:
                break
        return done

    def is_at_rest(self) -> bool:
        """Whether the primary is well and has everything."""
        now = self.get("/ledger")
        return (now["da_state"], now["pending"], now["unshipped"]) == ("healthy", 0, 0)

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """What is to be ended at the end, come what may."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        if process.child.poll() is None:
            process.child.kill()
        process.child.communicate(timeout=20)
        if isinstance(process, Coordinator):
            process.client.close()


def seen(what: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + SEEN_S
    while not what():
        assert time.monotonic() < ends_s, "it was not seen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("step", SHIPPING_STEPS)
def test_a_kill_at_this_step_loses_nothing_that_was_acknowledged(tmp_path: Path, step: str, started: list[Any]) -> None:
    primary, secondary = Server(tmp_path / "primary"), Server(tmp_path / "secondary")
    disk = tmp_path / "disk"
    doomed = Coordinator(disk, primary.url, secondary.url, step, COUNTS[step.partition(".")[0]])
    started += [primary, secondary, doomed]
    acknowledged = doomed.register([f"before-{number}" for number in range(6)])
    primary.child.kill()
    acknowledged += doomed.register([f"during-{number}" for number in range(8)])
    primary = Server(tmp_path / "primary", primary.port)
    started.append(primary)
    seen(lambda: not doomed.is_alive)
    assert doomed.child.wait(timeout=5) == -9, "the step was passed"

    began_s = time.monotonic()
    again = Coordinator(disk, primary.url, secondary.url)
    took_s = time.monotonic() - began_s
    started.append(again)
    assert took_s < RESTART_S_MAX
    acknowledged += again.register(["after"])

    seen(again.is_at_rest)
    assert {node["id"] for node in again.get("/nodes")} >= set(acknowledged)
    assert len(acknowledged) >= 5
    rebuilt = again.client.post("/state/rebuild", json={"from": "primary"}).json()
    assert (rebuilt["same"], rebuilt["behind"]) == (True, 0), "the primary alone holds the whole log"
    report = again.get("/fallback/consistency")
    assert (report["is_consistent"], report["details"]) == (True, [])
