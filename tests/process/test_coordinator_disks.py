"""The coordinator's own disk: full, read-only, and read-only from one moment to the next while it writes."""

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.disks import MIB, break_off, breaking_disk, fill, mount, small_disk
from tests.process.test_coordinator_process import Process, attempt, seed_node

pytestmark = pytest.mark.process

DEADLINE_S = 20.0


def register_until_refused(process: Process, first: int) -> tuple[list[int], int, httpx.Response]:
    """Registers node after node; those that were acknowledged, the one that was not, and the refusal."""
    acknowledged: list[int] = []
    for number in range(first, first + 5_000):
        answer = process.post("/nodes", seed_node(number))
        if answer.status_code != 200:
            return acknowledged, number, answer
        acknowledged.append(number)
    raise AssertionError("a disk that is full took five thousand nodes more")


def members(process: Process) -> set[Any]:
    answer = process.client.get("/cluster")
    assert answer.status_code == 200
    return {member["node_id"] for member in answer.json()["members"]}


def check_refusal(answer: httpx.Response, disk: Path, *told: str) -> None:
    assert answer.status_code == 503
    sentence = answer.json()["detail"]
    for part in (str(disk), *told):
        assert part in sentence


def test_a_full_disk_refuses_commands_serves_reads_and_goes_on_by_itself_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        process = Process(disk)
        try:
            assert process.post("/cluster", {"name": "c"}).status_code == 201
            fill(disk / "somebody else's")

            acknowledged, refused, answer = register_until_refused(process, 0)

            check_refusal(answer, disk, "full", "free some room on that disk")
            assert answer.headers["retry-after"] == "1"
            assert members(process) == set(acknowledged)
            assert process.client.get("/health").status_code == 200
            assert process.post("/nodes", seed_node(refused)).status_code == 503, "and it is still refused"

            (disk / "somebody else's").unlink()
            ends_s = time.monotonic() + DEADLINE_S
            while process.post("/nodes", seed_node(refused)).status_code != 200:
                assert time.monotonic() < ends_s, "there was room again, and nothing was written"
            assert members(process) == {*acknowledged, refused}
            process.kill()
            again = Process(disk)
            assert members(again) == {*acknowledged, refused}
            again.kill()
        finally:
            process.child.kill()
            process.end()


def test_a_disk_that_fails_under_a_running_coordinator_refuses_commands_and_serves_reads(tmp_path: Path) -> None:
    with breaking_disk(tmp_path / "disk") as disk:
        process = Process(disk)
        try:
            assert process.post("/cluster", {"name": "c"}).status_code == 201
            assert all(process.post("/nodes", seed_node(number)).status_code == 200 for number in range(20))
            break_off(disk)

            acknowledged, refused, answer = register_until_refused(process, 20)

            check_refusal(answer, disk, "system log")
            assert members(process) >= {*range(20), *acknowledged}
            assert refused not in members(process)
            process.child.send_signal(signal.SIGTERM)
            status, said = process.end()
            assert status == 0
            assert "Traceback" not in said
        finally:
            process.child.kill()
            process.end()


@pytest.mark.parametrize("begun_before", [True, False])
def test_a_coordinator_is_not_begun_on_a_read_only_disk_and_says_so_in_one_sentence(
    tmp_path: Path, begun_before: bool
) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        if begun_before:
            process = Process(disk)
            assert process.post("/cluster", {"name": "c"}).status_code == 201
            process.kill()
        mount("-o", "remount,ro", str(disk))
        outcome = attempt("--port", "0", "--data-dir", str(disk))
        assert outcome.returncode in (1, 2)
        assert str(disk) in outcome.stderr
        assert "read-only" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
        mount("-o", "remount,rw", str(disk))
        if begun_before:
            again = Process(disk)
            assert again.client.get("/cluster").json()["name"] == "c"
            again.kill()


def test_a_coordinator_is_not_begun_on_a_full_disk_and_says_so_in_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        fill(disk / "somebody else's")
        outcome = attempt("--port", "0", "--data-dir", str(disk))
        assert outcome.returncode in (1, 2)
        assert str(disk) in outcome.stderr
        assert "free some room on that disk" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
