"""Two coordinators on one journal, as processes: one writes, and the other when the first is killed or stopped."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines import NatsServer, PostgresServer
from tests.process.test_coordinator_process import environment, seed_node
from weft.client import Client

pytestmark = pytest.mark.process

LEASE_MS = 1_000
TAKEOVER_S_MAX = 4.0
"""A lease, a pulse, a look at the log and an append, and room for a machine with two processors and other work."""
_names = iter(f"terms{number}" for number in range(1_000))


class Coordinator:
    """A coordinator process on a shared journal."""

    def __init__(self, directory: Path, journal: str, secret: str) -> None:
        self.log = directory / "log"
        self.environment = environment(WEFT_JOURNAL=journal, WEFT_SECRET=secret, WEFT_TERM_LEASE_MS=str(LEASE_MS))
        with self.log.open("ab") as said:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "weft.coordinator", "--port", "0", "--data-dir", str(directory)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=self.environment,
            )
        assert self.child.stdout is not None
        line = self.child.stdout.readline().strip()
        assert line.startswith("weft coordinator listening on "), self.log.read_text()
        self.url = line.removeprefix("weft coordinator listening on ")
        self.client = httpx.Client(base_url=self.url, timeout=5, trust_env=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def writes(self) -> bool:
        """Whether it takes commands; ordering a node that is not there is one that changes nothing."""
        with contextlib.suppress(httpx.HTTPError):
            return self.client.delete("/nodes/nobody").status_code == 404
        return False

    def nodes(self) -> set[str]:
        return {str(member["node_id"]) for member in self.client.get("/cluster").json()["members"]}

    def position(self) -> int:
        return int(self.client.get("/health").headers["weft-position"])

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
        self.child.communicate(timeout=20)
        self.client.close()


def until(holds: Callable[[], bool], limit_s: float = 20.0) -> float:
    """Wait until something holds; how long that took."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < limit_s, "it did not come to hold in time"
        time.sleep(0.02)
    return time.monotonic() - began_s


@pytest.fixture(params=["nats", "postgres"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Coordinator]]:
    """Starts coordinators, each with a directory of its own, on one journal."""
    server: NatsServer | PostgresServer = request.getfixturevalue(f"{request.param}_server")
    name = next(_names)
    journal = f"{server.url}/{name}" if request.param == "nats" else f"{server.url}?schema={name}"
    secret, started = secrets.token_hex(32), []

    def begin() -> Coordinator:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        started.append(Coordinator(directory, journal, secret))
        return started[-1]

    yield begin
    for coordinator in started:
        coordinator.end()


class Load:
    """Registers nodes one after the other, at whoever answers, under ids that make a repeat harmless."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.acknowledged: dict[int, float] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(turn,)) for turn in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, turn: int) -> None:
        number = turn
        with httpx.Client(timeout=2, trust_env=False) as client:
            while not self._stop.is_set():
                for url in self.urls:
                    try:
                        answer = client.post(
                            f"{url}/nodes", json=seed_node(number), headers={"weft-request-id": f"load-{number}"}
                        )
                    except httpx.HTTPError:
                        continue
                    if answer.status_code == 200:
                        self.acknowledged[number] = time.monotonic()
                        number += len(self._threads)
                        break
                    assert answer.status_code == 503, answer.text
                else:
                    time.sleep(0.01)

    def end(self) -> set[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()
        return {str(number) for number in self.acknowledged}


def test_a_second_coordinator_follows_and_names_the_writer(start: Callable[[], Coordinator]) -> None:
    first, second = start(), start()
    assert first.post("/cluster", {"name": "c"}).status_code == 201
    answer = first.post("/nodes", seed_node(7))
    position = int(answer.headers["weft-position"])
    seen = second.client.get("/nodes/7/endpoint", params={"at_least": position})
    assert (seen.status_code, seen.json()["code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert second.client.get("/cluster", params={"at_least": position}).json()["nodes"] == 1
    refused = second.post("/v2/placements", {"model": "m"})
    assert (refused.status_code, refused.json()["code"]) == (503, "NOT_THE_WRITER")
    assert first.url in second.post("/nodes", seed_node(8)).json()["detail"]
    assert [each.client.get("/ready").status_code for each in (first, second)] == [200, 503]
    told = second.client.get("/health").json()
    assert (told["status"], told["role"], told["writer"]) == ("healthy (following)", "follower", first.url)
    with Client(second.url) as client:
        client.register_storage_node(id="n9", zone="a", addr="10.0.0.1:50051", capacity_gb=1)
    assert "n9" in first.nodes(), "a client of ours goes on to the writer by itself"
    assert "weft_reigns 0" in second.client.get("/metrics", headers={"accept": "text/plain"}).text


def test_the_other_takes_over_when_the_writer_is_killed_and_nothing_acknowledged_is_lost(
    start: Callable[[], Coordinator],
) -> None:
    first, second = start(), start()
    first.post("/cluster", {"name": "c"})
    load = Load([first.url, second.url])
    until(lambda: len(load.acknowledged) > 100)
    first.child.kill()
    killed_s = time.monotonic()
    until(lambda: any(at_s > killed_s + 0.2 for at_s in load.acknowledged.values()))
    gap_s = min(at_s for at_s in load.acknowledged.values() if at_s > killed_s + 0.2) - killed_s
    assert gap_s < TAKEOVER_S_MAX
    until(second.writes)
    count = len(load.acknowledged)
    until(lambda: len(load.acknowledged) > count + 50)
    acknowledged = load.end()
    nodes = second.nodes()
    assert acknowledged <= nodes
    third = start()
    assert third.nodes() == nodes, "every coordinator tells the same story"
    events = second.client.get("/events", params={"from": "0", "follow": "false"}).text
    registered = [line for line in events.splitlines() if '"kind":"NodeRegistered"' in line.replace(" ", "")]
    assert len(registered) == len(nodes), "a request that was repeated has one effect"


def test_a_writer_that_was_stopped_finds_itself_deposed_and_follows(start: Callable[[], Coordinator]) -> None:
    first, second = start(), start()
    first.post("/cluster", {"name": "c"})
    first.post("/nodes", seed_node(1))
    os.kill(first.child.pid, signal.SIGSTOP)
    took_s = until(second.writes)
    assert took_s < TAKEOVER_S_MAX
    assert second.post("/nodes", seed_node(2)).status_code == 200
    os.kill(first.child.pid, signal.SIGCONT)
    # What changes nothing is refused as well: its answer would be of a state that is no longer the last.
    for answer in (first.post("/nodes", seed_node(3)), first.client.delete("/nodes/nobody")):
        assert answer.status_code == 503, answer.text
        assert second.url in answer.json()["detail"]
    until(lambda: first.position() == second.position())
    assert first.nodes() == second.nodes() == {"1", "2"}


def test_an_idle_writer_is_not_deposed_and_the_log_does_not_grow(start: Callable[[], Coordinator]) -> None:
    first, second = start(), start()
    first.post("/cluster", {"name": "c"})
    position = first.position()
    time.sleep(3 * LEASE_MS / 1_000)
    assert first.writes()
    assert not second.writes()
    assert first.position() == second.position() == position


def test_a_writer_that_stops_in_order_is_followed_at_once(start: Callable[[], Coordinator]) -> None:
    first, second = start(), start()
    first.post("/cluster", {"name": "c"})
    first.child.send_signal(signal.SIGTERM)
    first.child.wait(timeout=20)
    assert until(second.writes) < LEASE_MS / 1_000


def test_one_of_several_followers_takes_over(start: Callable[[], Coordinator]) -> None:
    coordinators = [start() for _ in range(3)]
    coordinators[0].post("/cluster", {"name": "c"})
    coordinators[0].child.kill()
    left = coordinators[1:]
    until(lambda: any(each.writes() for each in left))
    time.sleep(LEASE_MS / 1_000)
    assert sum(each.writes() for each in left) == 1
    assert left[0].position() == left[1].position() == 3, "one term was begun"


def test_two_coordinators_may_not_share_a_directory(start: Callable[[], Coordinator]) -> None:
    first = start()
    refused = subprocess.run(
        [sys.executable, "-m", "weft.coordinator", "--port", "0", "--data-dir", str(first.log.parent)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=first.environment,
    )
    assert refused.returncode == 2
    assert f"process {first.child.pid}" in refused.stderr
