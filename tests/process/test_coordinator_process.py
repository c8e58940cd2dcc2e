"""The coordinator as a real process: started wrongly, killed, stopped, and started again."""

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


class Process:
    """A coordinator process and a client of it."""

    def __init__(self, directory: Path, *flags: str, **env: str) -> None:
        self.directory = directory
        self.child = subprocess.Popen(
            [sys.executable, "-m", "weft.coordinator", "--port", "0", "--data-dir", str(directory), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
        )
        assert self.child.stdout is not None
        line = self.child.stdout.readline().strip()
        assert line.startswith("weft coordinator listening on http://"), (line, self.end())
        self.url = line.removeprefix("weft coordinator listening on ")
        self.client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def kill(self) -> None:
        self.child.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit status and what was said on the way."""
        _, said = self.child.communicate(timeout=20)
        if hasattr(self, "client"):
            self.client.close()
        return self.child.returncode, said


def environment(**env: str) -> dict[str, str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "COORDINATOR_", "ORCHD_"))
    }
    return {**clean, "PYTHONPATH": str(ROOT / "python"), **env}


def attempt(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A start that is not expected to succeed."""
    return subprocess.run(
        [sys.executable, "-m", "weft.coordinator", *flags],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment(**env),
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts coordinators on one data directory, and leaves none behind."""
    started: list[Process] = []

    def begin(*flags: str, **env: str) -> Process:
        started.append(Process(tmp_path, *flags, **env))
        return started[-1]

    yield begin
    for process in started:
        if process.child.poll() is None:
            process.kill()
        process.client.close()


def seed_node(number: int) -> dict[str, Any]:
    return {
        "node_id": number,
        "hostname": "h",
        "ip_address": "10.0.0.1",
        "cpu_count": 1,
        "memory_mb": 1,
        "status": "active",
    }


def test_a_kill_right_after_an_answer_loses_nothing(start: Any) -> None:
    first = start()
    assert first.post("/cluster", {"name": "c"}).status_code == 201
    answered: list[int] = []

    def register(number: int) -> None:
        try:
            if first.post("/nodes", seed_node(number)).status_code == 200:
                answered.append(number)
        except httpx.HTTPError:
            pass

    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(register, number) for number in range(400)]
        tasks[60].result()
        first.child.kill()
    first.end()
    assert len(answered) >= 50
    second = start()
    cluster = second.client.get("/cluster").json()
    present = {member["node_id"] for member in cluster["members"]}
    assert set(answered) <= present
    assert cluster["name"] == "c"


def test_a_request_whose_answer_was_lost_in_a_kill_can_be_repeated(start: Any) -> None:
    first = start()
    body = {"name": "c", "nodes": [seed_node(0)]}
    answer = first.post("/cluster", body, **{"Weft-Request-Id": "once"})
    first.kill()
    again = start().post("/cluster", body, **{"Weft-Request-Id": "once"})
    assert (again.status_code, again.json()) == (201, answer.json())


def test_sigterm_answers_what_waits_and_ends_with_zero(start: Any) -> None:
    process = start()
    process.post("/cluster", {"name": "c", "nodes": [seed_node(0)]})
    beat = {"incarnation": "00000000000000a1", "generation": 0}
    beat["generation"] = process.post("/nodes/0/beat", beat).json()["generation"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(process.post, "/nodes/0/beat", {**beat, "wait_ms": 30_000})
        metrics = {"accept": "text/plain"}
        while "weft_beats_waiting 1" not in process.client.get("/metrics", headers=metrics).text:
            pass
        process.child.send_signal(signal.SIGTERM)
        assert waiting.result(timeout=10).status_code == 200
    status, said = process.end()
    assert status == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["log followed", "stopped"]


def test_a_second_coordinator_on_one_directory_is_refused_and_the_first_goes_on(start: Any, tmp_path: Path) -> None:
    first = start()
    second = attempt("--port", "0", "--data-dir", str(tmp_path))
    assert second.returncode == 2
    assert str(tmp_path) in second.stderr
    assert f"process {first.child.pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    assert first.client.get("/health").status_code == 200


def test_a_port_in_use_is_a_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = attempt("--port", port, "--data-dir", str(tmp_path))
    assert outcome.returncode == 2
    assert f"127.0.0.1:{port}" in outcome.stderr
    assert "--port" in outcome.stderr
    assert outcome.stdout == ""


def test_a_damaged_journal_is_not_begun_on_and_the_place_is_named(start: Any, tmp_path: Path) -> None:
    start().kill()
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE batches SET body = zeroblob(10) WHERE position = 1")
    connection.close()
    outcome = attempt("--port", "0", "--data-dir", str(tmp_path))
    assert outcome.returncode == 1
    assert "position 1" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_the_secret_is_made_once_and_is_nobody_else_s_business(start: Any, tmp_path: Path) -> None:
    start().kill()
    path = tmp_path / "secret"
    secret = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret.strip()) == 64
    start()
    assert path.read_text() == secret
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith("secret")) == ["secret"]


def test_a_bind_others_can_reach_needs_a_secret_and_then_a_token(start: Any, tmp_path: Path) -> None:
    refused = attempt("--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "WEFT_SECRET" in refused.stderr
    process = start("--host", "0.0.0.0", WEFT_TOKENS="letmein")
    local = process.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{local}/health", trust_env=False).status_code == 200
    assert httpx.get(f"{local}/metrics", trust_env=False).status_code == 401
    token = {"authorization": "Bearer letmein"}
    assert httpx.get(f"{local}/cluster", headers=token, trust_env=False).status_code == 404


def test_a_journal_in_memory_leaves_no_journal(start: Any, tmp_path: Path) -> None:
    process = start("--memory")
    assert process.post("/cluster", {"name": "c"}).status_code == 201
    process.kill()
    assert start("--memory").client.get("/cluster").status_code == 404
    assert not (tmp_path / "journal.sqlite").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATORD_NODE_TIMEOUT_MS", "soon"),
        ("ORCHESTRATORD_PLACEMENT_STRATEGY", "fastest"),
        ("COORDINATOR_PORT", "many"),
        ("ORCHD_ADDR", "nowhere"),
    ],
)
def test_a_wrong_setting_ends_the_process_and_names_the_variable(tmp_path: Path, variable: str, value: str) -> None:
    outcome = attempt("--data-dir", str(tmp_path), **{variable: value})
    assert outcome.returncode == 2
    assert variable in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_two_variables_that_disagree_are_both_named(tmp_path: Path) -> None:
    outcome = attempt("--data-dir", str(tmp_path), COORDINATOR_PORT="8081", ORCHD_ADDR="127.0.0.1:8082")
    assert outcome.returncode == 2
    assert "COORDINATOR_PORT=8081" in outcome.stderr
    assert "ORCHD_ADDR=127.0.0.1:8082" in outcome.stderr
