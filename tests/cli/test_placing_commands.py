"""`weft node list|drain|resume|remove`, `placement`, `schedule` and `events`, each against a coordinator that runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli.__main__ import weft
from weft.client import Client

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A coordinator with three nodes."""
    environment = {**os.environ, "WEFT_DATA_DIR": str(tmp_path_factory.mktemp("data")), "COORDINATOR_PORT": "0"}
    command = [sys.executable, "-m", "weft.coordinator", "--memory"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as made:
        try:
            assert made.stdout is not None
            where = made.stdout.readline().split()[-1]
            with Client(where) as client:
                for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "c")):
                    client.register_storage_node(id=name, zone=zone, addr="10.0.0.1:50051", capacity_gb=1)
                    client.take_node_stats(node_id=name, cpu_free=0.5, ram_free_mb=100.0 if name == "n1" else 50.0)
            yield where
        finally:
            made.terminate()
            made.wait(timeout=20)


@pytest.fixture
def invoke(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    monkeypatch.setenv("WEFT_COORDINATOR", url)
    monkeypatch.setenv("WEFT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("WEFT_SECRET", raising=False)
    return lambda *arguments: CliRunner().invoke(weft, arguments)


def test_node_list_shows_every_node(invoke: Invoke) -> None:
    listed = invoke("node", "list", "--json")
    assert listed.exit_code == 0, listed.output
    nodes = json.loads(listed.stdout)["nodes"]
    assert [(one["node_id"], one["zone"], one["capacity_gb"]) for one in nodes] == [
        ("n1", "a", 1),
        ("n2", "b", 1),
        ("n3", "c", 1),
    ]
    shown = invoke("node", "list")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in ("n1", "n2", "n3"))


def test_a_drained_node_is_placed_on_no_more_until_it_is_resumed(invoke: Invoke) -> None:
    everybody = json.loads(invoke("placement", "k", "--json").stdout)
    assert sorted(everybody) == ["n1", "n2", "n3"]
    assert "weft node resume n2" in invoke("node", "drain", "n2").stdout
    assert sorted(json.loads(invoke("placement", "k", "--json").stdout)) == ["n1", "n3"]
    assert invoke("node", "resume", "n2", "--json").exit_code == 0
    assert invoke("placement", "k").stdout.split() == everybody


def test_schedule_names_the_node_and_explains_the_others(invoke: Invoke) -> None:
    assert invoke("schedule", "--cpu", "0.2").stdout == "n1\n"
    explained = json.loads(invoke("schedule", "--ram-mb", "60", "--explain", "--json").stdout)
    assert explained["node_id"] == "n1"
    assert [one["refused"] for one in explained["explanation"]] == [
        None,
        "ram_free_mb 50 is less than 60",
        "ram_free_mb 50 is less than 60",
    ]


def test_no_suitable_node_is_a_sentence_and_exit_status_1(invoke: Invoke) -> None:
    result = invoke("schedule", "--cpu", "0.9", "--explain")
    assert result.exit_code == 1
    assert result.stderr == "weft: no suitable node; --explain says why each was refused\n"
    assert "cpu_free 0.5 is less than 0.9" in result.stdout


def test_events_are_one_json_document_a_line(invoke: Invoke) -> None:
    result = invoke("events", "--json")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["kind"] for event in events].count("NodeRegistered") == 3
    sequences = [event["sequence"] for event in events]
    assert sequences == list(range(1, len(sequences) + 1))
    last = f"{events[-2]['position']}.{events[-2]['index']}"
    assert len(invoke("events", "--from", last, "--json").stdout.splitlines()) == 1
    assert "NodeRegistered  node_id=n1" in invoke("events").stdout


def test_a_removed_node_is_gone(invoke: Invoke, url: str) -> None:
    with Client(url) as client:
        client.register_storage_node(id="passing", zone="z", addr="10.0.0.1:50051", capacity_gb=1)
    assert "3 remain" in invoke("node", "remove", "passing").stdout
    assert "passing" not in invoke("node", "list", "--json").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["node", "drain", "nobody"],
        ["node", "remove", "nobody"],
        ["events", "--from", "999"],
        ["events", "--from", "x"],
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_status_1(invoke: Invoke, arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("weft: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["node", "drain"], ["placement"], ["placement", "k", "--rf", "-1"]])
def test_wrong_usage_is_exit_status_2(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_what_is_no_subcommand_is_the_node_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    become: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("weft.cli.process.become", lambda module, arguments: become.append((module, arguments)))
    for arguments in (["--lend", "4GiB"], ["--help"], [], ["--name", "list"]):
        assert CliRunner().invoke(weft, ["node", *arguments]).exit_code == 0
    assert become == [("weft.agent", given) for given in (["--lend", "4GiB"], ["--help"], [], ["--name", "list"])]
