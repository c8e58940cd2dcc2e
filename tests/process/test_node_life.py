"""Nodes and a coordinator of the cloud profile as real processes: killed, stopped, started again, told to leave."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from weft.cli.demo.cluster import OWN_SETTINGS
from weft.cli.demo.crew import Child, Crew
from weft.handoff import Handoff, write_handoff

pytestmark = pytest.mark.process

DEADLINE_S = 20.0
TIMEOUT_MS = 1_500
BEAT_S = 1
OLD, NEW = "old-" + "x" * 32, "new-" + "y" * 32
CLOUD = {
    "ORCHESTRATORD_CLOUD_PROFILE": "true",
    "ORCHESTRATORD_NODE_TIMEOUT_MS": str(TIMEOUT_MS),
    "ORCHESTRATORD_STALE_CHECK_INTERVAL_SECS": "1",
    "POOL_MANAGERD_CLOUD_PROFILE": "true",
    "POOL_MANAGERD_ADDRESS": "http://127.0.0.1:9200",
    "HEARTBEAT_INTERVAL_SECS": str(BEAT_S),
    "WATCH_INTERVAL_MS": "100",
    "WEFT_SECRET": "a secret for tests",
}


@dataclass
class Cloud:
    """A coordinator on a port of its own, and nodes."""

    crew: Crew
    folder: Path
    port: int
    environment: dict[str, str]
    token: str | None = None
    coordinator: Child | None = None
    nodes: dict[str, Child] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, **environment: str) -> Child:
        """Starts the coordinator, or starts it again."""
        self.coordinator = self.crew.start(
            "coordinator",
            *("-m", "weft.coordinator", "--port", str(self.port), "--data-dir", str(self.folder)),
            environment={**self.environment, **environment},
        )
        self.coordinator.line_with("listening", DEADLINE_S)
        return self.coordinator

    def spawn(self, name: str, **environment: str) -> Child:
        """Starts a node and waits for nothing."""
        own = {
            **self.environment,
            "ORCHESTRATORD_URL": self.url,
            "POOL_MANAGERD_NODE_ID": name,
            "POOL_MANAGERD_RUNTIME_DIR": str(self.engines(name)),
            **environment,
        }
        arguments = ("-m", "weft.agent", "--lend", "0", "--objects", "none", *self.crew.ports.flags())
        self.nodes[name] = self.crew.start(name, *arguments, environment=own)
        return self.nodes[name]

    def start(self, name: str, **environment: str) -> Child:
        """Starts a node and waits until it is up."""
        child = self.spawn(name, **environment)
        child.line_with(f"weft node {name} lending", DEADLINE_S)
        return child

    def engines(self, name: str) -> Path:
        return self.folder / "engines" / name

    def engine(self, name: str, **fields: Any) -> Path:
        return write_handoff(
            self.engines(name), Handoff(url="http://127.0.0.1:8081", pool_id="pool-0", slots_total=4, **fields)
        )

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.request(method, self.url + path, headers=headers, json=body, timeout=5, trust_env=False)

    def listed(self) -> dict[str, Any]:
        return {node["node_id"]: node for node in self.ask("GET", "/v2/nodes").json()["nodes"]}

    def status(self, name: str) -> str | None:
        node = self.listed().get(name)
        return None if node is None else str(node["status"])


def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> float:
    """Waits for a condition; how long that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < deadline_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began_s


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Crew({}, without=OWN_SETTINGS) as crew:
        made = Cloud(crew, tmp_path, port, dict(CLOUD))
        yield made
        # Those that are still there would say goodbye to a coordinator that has gone before them.
        for child in made.nodes.values():
            if child.process.poll() is None:
                child.kill()


def test_a_node_that_is_killed_is_offline_in_time_and_its_next_life_is_back_at_once(cloud: Cloud) -> None:
    cloud.begin()
    cloud.start("a").kill()
    took_s = until(lambda: cloud.status("a") == "Offline")
    assert took_s < TIMEOUT_MS / 1_000 + BEAT_S + 1.0
    cloud.start("a")
    assert cloud.status("a") == "Online"


@pytest.mark.parametrize("pause_s", [0.0, 0.2, 0.35, 0.5])
def test_a_node_that_is_killed_while_it_comes_in_does_not_keep_its_next_life_out(cloud: Cloud, pause_s: float) -> None:
    cloud.begin()
    child = cloud.spawn("a")
    began_s = time.monotonic()
    until(lambda: time.monotonic() - began_s >= pause_s)
    child.kill()
    cloud.start("a")
    until(lambda: cloud.status("a") == "Online")
    assert list(cloud.listed()) == ["a"]


def test_a_node_that_is_stopped_for_twice_the_timeout_is_back_by_itself(cloud: Cloud) -> None:
    cloud.begin()
    child = cloud.start("a")
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: cloud.status("a") == "Offline")
    began_s = time.monotonic()
    until(lambda: time.monotonic() - began_s >= 2 * TIMEOUT_MS / 1_000)
    assert cloud.status("a") == "Offline"
    os.kill(child.pid, signal.SIGCONT)
    took_s = until(lambda: cloud.status("a") == "Online")
    assert took_s < 5.0
    assert child.process.poll() is None


def test_nodes_reappear_after_the_coordinator_was_killed_though_its_log_is_gone(cloud: Cloud) -> None:
    cloud.begin()
    for name in ("a", "b"):
        cloud.start(name)
        cloud.engine(name)
    until(lambda: all(node["pool_status"][0]["ready"] for node in cloud.listed().values()))
    pids = {name: child.pid for name, child in cloud.nodes.items()}
    assert cloud.coordinator is not None
    cloud.coordinator.kill()
    (cloud.folder / "journal.sqlite").unlink()
    cloud.begin()
    until(lambda: [cloud.status(name) for name in ("a", "b")] == ["Online", "Online"])
    until(lambda: all(node["pool_status"] and node["pool_status"][0]["ready"] for node in cloud.listed().values()))
    assert {name: child.pid for name, child in cloud.nodes.items() if child.process.poll() is None} == pids


def test_a_coordinator_that_is_killed_and_starts_again_finds_its_nodes_where_they_were(cloud: Cloud) -> None:
    coordinator = cloud.begin()
    cloud.start("a")
    before = cloud.listed()["a"]
    coordinator.kill()
    cloud.begin()
    until(lambda: cloud.status("a") == "Online")
    until(lambda: cloud.listed()["a"]["last_heartbeat_age_ms"] < TIMEOUT_MS)
    assert cloud.listed()["a"]["registered_at_ms"] == before["registered_at_ms"]


def test_a_node_begun_before_its_coordinator_is_in_soon_after(cloud: Cloud) -> None:
    child = cloud.spawn("a")
    child.line_with("trying again", DEADLINE_S)
    cloud.begin()
    child.line_with("weft node a lending", DEADLINE_S)
    until(lambda: cloud.status("a") == "Online")


def test_a_node_that_is_told_to_end_drains_leaves_and_is_gone(cloud: Cloud) -> None:
    cloud.begin()
    child = cloud.start("a")
    cloud.engine("a", slots_free=3)
    until(lambda: cloud.listed()["a"]["pool_status"][0]["ready"])
    child.process.terminate()
    until(lambda: cloud.status("a") == "Draining")
    cloud.engine("a", slots_free=4)
    assert child.wait(DEADLINE_S) == 0
    assert cloud.listed() == {}


def test_a_node_that_is_killed_while_it_drains_goes_offline_and_comes_back_undrained(cloud: Cloud) -> None:
    cloud.begin()
    child = cloud.start("a")
    cloud.engine("a", slots_free=0)
    until(lambda: cloud.listed()["a"]["pool_status"][0]["ready"])
    child.process.terminate()
    until(lambda: cloud.status("a") == "Draining")
    child.kill()
    until(lambda: cloud.status("a") == "Offline")
    cloud.start("a")
    until(lambda: cloud.status("a") == "Online")


def test_a_handoff_file_and_a_dead_engine_are_seen_within_two_seconds(cloud: Cloud) -> None:
    cloud.begin()
    cloud.start("a", WATCH_INTERVAL_MS="1000")
    with Crew({}) as others:
        engine = others.start("engine", "-c", "import time; time.sleep(60)")
        cloud.engine("a", pid=engine.pid)
        assert until(lambda: len(cloud.listed()["a"]["bindings"]) == 1) < 2.0
        engine.kill()
        assert until(lambda: cloud.listed()["a"]["bindings"] == []) < 2.0


@pytest.mark.parametrize("by_signal", [False, True])
def test_tokens_are_changed_while_everything_runs(cloud: Cloud, tmp_path: Path, by_signal: bool) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(OLD)
    cloud.environment["LLORCH_API_TOKEN_FILE"] = str(tokens)
    cloud.token = OLD
    coordinator = cloud.begin()
    node = cloud.start("a")
    assert cloud.status("a") == "Online"

    def put(text: str) -> None:
        draft = tmp_path / "draft"
        draft.write_text(text)
        draft.replace(tokens)
        if by_signal:
            coordinator.process.send_signal(signal.SIGHUP)

    def accepts(token: str) -> bool:
        cloud.token = token
        return cloud.ask("GET", "/v2/nodes").status_code == 200

    put(f"{OLD},{NEW}")
    until(lambda: accepts(NEW))
    assert accepts(OLD)
    put(NEW)
    until(lambda: not accepts(OLD))
    assert accepts(NEW)
    until(lambda: cloud.listed()["a"]["last_heartbeat_age_ms"] < TIMEOUT_MS)
    assert (coordinator.process.poll(), node.process.poll()) == (None, None)
    lines = "\n".join(coordinator.lines + node.lines)
    assert OLD not in lines
    assert NEW not in lines
    assert "token:" in lines


def test_an_exposed_bind_without_a_token_is_refused_in_the_cloud(cloud: Cloud) -> None:
    child = cloud.crew.start(
        "coordinator",
        *("-m", "weft.coordinator", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(cloud.folder)),
        environment=cloud.environment,
    )
    assert child.wait(DEADLINE_S) == 2
    assert "LLORCH_API_TOKEN" in child.last_line


def test_a_home_answers_503_and_binds_what_comes_up_beside_it(cloud: Cloud) -> None:
    engines = cloud.folder / "home-engines"
    cloud.environment = {"WEFT_SECRET": "s", "ORCHD_RUNTIME_DIR": str(engines)}
    coordinator = cloud.begin()
    assert cloud.ask("GET", "/v2/nodes").status_code == 503
    write_handoff(engines, Handoff(url="http://127.0.0.1:8081"))
    took_s = until(lambda: len(cloud.ask("GET", "/engines").json()["engines"]) == 1)
    assert took_s < 2.0
    events = [json.loads(line)["event"] for line in coordinator.lines if line.startswith("{")]
    assert "adapter bound" in events


def test_the_coordinator_s_own_directory_has_no_effect_in_the_cloud(cloud: Cloud) -> None:
    engines = cloud.folder / "nobody-s-engines"
    write_handoff(engines, Handoff(url="http://127.0.0.1:8081"))
    cloud.begin(ORCHD_RUNTIME_DIR=str(engines), ORCHD_HANDOFF_WATCH_INTERVAL_MS="10")
    cloud.start("a")
    assert cloud.ask("GET", "/engines").json() == {"engines": []}


def test_a_coordinator_that_is_stopped_for_longer_than_the_timeout_blames_no_node(cloud: Cloud) -> None:
    coordinator = cloud.begin()
    names = ("a", "b", "c")
    for name in names:
        cloud.start(name)
    os.kill(coordinator.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    until(lambda: time.monotonic() - began_s >= 2 * TIMEOUT_MS / 1_000)
    os.kill(coordinator.pid, signal.SIGCONT)
    assert [cloud.status(name) for name in names] == ["Online"] * 3, "from the first answer on"
    until(lambda: all(node["last_heartbeat_age_ms"] < TIMEOUT_MS / 3 for node in cloud.listed().values()))
    assert [cloud.status(name) for name in names] == ["Online"] * 3
    events = [json.loads(line)["event"] for line in coordinator.lines if line.startswith("{")]
    assert "node offline" not in events


def test_a_request_that_waited_while_the_coordinator_was_stopped_blames_no_node(cloud: Cloud) -> None:
    coordinator = cloud.begin()
    cloud.start("a")
    cloud.engine("a", slots_free=1)
    until(lambda: cloud.listed()["a"]["pool_status"] and cloud.listed()["a"]["pool_status"][0]["ready"])
    placement = cloud.ask("POST", "/v2/placements", {}).json()["placement_id"]
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=DEADLINE_S) as queued:
        os.kill(coordinator.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        queued.sendall(
            f"GET /v2/placements/{placement} HTTP/1.1\r\nHost: c\r\n\r\n"
            "GET /placement/k HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n".encode()
        )
        until(lambda: time.monotonic() - began_s >= 2 * TIMEOUT_MS / 1_000)
        os.kill(coordinator.pid, signal.SIGCONT)
        answers = b"".join(iter(lambda: queued.recv(65_536), b"")).decode()
    assert answers.count("HTTP/1.1 200") == 2, answers
    assert '["a"]' in answers
    assert cloud.status("a") == "Online"
