"""`weft ledger`: a disk is thrown away and comes back from a server that keeps blobs, or from the journal."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_coordinator_process import Process, environment, seed_node
from tests.worlds import FakeClock
from weft.ledger import SqliteJournal
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layers import EmergencyLayer, HttpxHttp
from weft.ledger.pending import PendingList
from weft.model.availability import Role
from weft.model.ids import Position
from weft.receipts import Domain, SigningKey

pytestmark = pytest.mark.process

SECRET = secrets.token_hex(32)
KEY = SigningKey.from_secret(SECRET.encode(), Domain.PUBLISHER)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The emergency server, as a process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "weft.witness", "emergency", "--port", "0", "--data", str(tmp_path / "blobs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert child.stdout is not None
    url = child.stdout.readline().strip().removeprefix("weft witness emergency listening on ")
    yield url
    child.kill()
    child.communicate(timeout=20)


def layered(url: str) -> dict[str, str]:
    return {
        "WEFT_SECRET": SECRET,
        "USE_MOCK_DA": "true",
        "ENABLE_FALLBACK": "true",
        "FALLBACK_DA_TYPE": "emergency",
        "EMERGENCY_DA_URL": url,
    }


def publish(directory: Path, url: str, upto: int | None = None) -> int:
    """Put the log of a coordinator that has ended onto the server."""

    async def tell() -> int:
        journal, http = SqliteJournal(directory), HttpxHttp()
        layer = EmergencyLayer(http, FakeClock(), url, None)
        log = (await journal.read(Position(0), 10_000))[:upto]
        for sealed in log:
            await layer.put(wrap(KEY, sealed.batch.cluster_id, Kind.BATCH, sealed.batch.position, sealed.body))
        await journal.close()
        await layer.close()
        await http.close()
        return len(log)

    return asyncio.run(tell())


def weft(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**env),
    )


def lived(directory: Path, count: int = 40) -> tuple[dict[str, Any], dict[str, Any]]:
    """A coordinator's life on a disk; what it said at the end of its state and of its cluster."""
    first = Process(directory, WEFT_SECRET=SECRET)
    first.post("/cluster", {"name": "c"})
    for number in range(count):
        first.post("/nodes", seed_node(number))
    said = first.client.get("/state").json(), first.client.get("/cluster").json()
    first.kill()
    return said


def answers(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    again = Process(directory, WEFT_SECRET=SECRET)
    verified = weft("ledger", "verify", WEFT_COORDINATOR=again.url, WEFT_SECRET=SECRET)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "the same as the living state" in verified.stdout
    shown = weft("ledger", "state", WEFT_COORDINATOR=again.url, WEFT_SECRET=SECRET)
    said = again.client.get("/state").json(), again.client.get("/cluster").json()
    assert said[0]["state_digest"] in shown.stdout
    again.kill()
    return said


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """One batch more, the term that was begun, and nothing else."""
    moved = ("position", "events", "term")
    assert [after[name] for name in moved] == [before[name] + 1 for name in moved]
    return bool(after["counts"] == before["counts"] and after["cluster_id"] == before["cluster_id"])


def test_a_disk_that_was_wiped_comes_back_from_a_layer_with_the_same_answers(tmp_path: Path, server: str) -> None:
    disk = tmp_path / "disk"
    state, cluster = lived(disk)
    count = publish(disk, server)
    fresh = tmp_path / "fresh"
    rebuilt = weft("ledger", "rebuild", "--from", "emergency", "--data-dir", str(fresh), **layered(server))
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert f"rebuilt up to position {count}" in rebuilt.stdout
    assert state["state_digest"] in rebuilt.stdout
    after, members = answers(fresh)
    assert same(state, after)
    assert members | {"position": 0} == cluster | {"position": 0}


def test_a_damaged_journal_is_rebuilt_and_kept_aside(tmp_path: Path, server: str) -> None:
    disk = tmp_path / "disk"
    state, cluster = lived(disk)
    publish(disk, server)
    path = disk / "journal.sqlite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    rebuilt = weft("ledger", "rebuild", "--from", "layers", "--data-dir", str(disk), **layered(server))
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "journal.sqlite.before-1" in rebuilt.stdout
    after, members = answers(disk)
    assert same(state, after)
    assert members | {"position": 0} == cluster | {"position": 0}


def test_a_layer_that_lacks_the_log_leaves_the_disk_as_it_was(tmp_path: Path, server: str) -> None:
    disk = tmp_path / "disk"
    state, _ = lived(disk, 5)
    refused = weft("ledger", "rebuild", "--from", "emergency", "--data-dir", str(disk), **layered(server))
    assert refused.returncode == 1
    assert "nothing of this cluster's log" in refused.stderr
    after, _ = answers(disk)
    assert same(state, after)


def test_a_rebuild_that_lacks_an_acknowledged_batch_is_refused_until_it_is_forced(tmp_path: Path, server: str) -> None:
    disk = tmp_path / "disk"
    state, _ = lived(disk, 5)
    count = publish(disk, server, state["position"] - 1)

    async def list_next() -> None:
        pending = PendingList(disk)
        await pending.add("ab" * 32, Role.EMERGENCY, 0, 1, Position(count + 1))
        await pending.close()

    asyncio.run(list_next())
    arguments = ("ledger", "rebuild", "--from", "emergency", "--data-dir", str(disk))
    refused = weft(*arguments, **layered(server))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--force" in refused.stderr
    assert same(state, answers(disk)[0])
    forced = weft(*arguments, "--force", **layered(server))
    assert forced.returncode == 0, forced.stderr
    assert f"rebuilt up to position {count}" in forced.stdout
    assert "availability.sqlite.before-1" in forced.stdout


def test_a_rebuild_from_the_journal_trusts_no_snapshot(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    state, _ = lived(disk, 5)
    rebuilt = weft("ledger", "rebuild", "--from", "journal", "--data-dir", str(disk), WEFT_SECRET=SECRET)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert state["state_digest"] in rebuilt.stdout
    after, _ = answers(disk)
    assert same(state, after)


def test_a_rebuild_beside_a_coordinator_that_runs_is_refused(tmp_path: Path, server: str) -> None:
    running = Process(tmp_path / "disk", WEFT_SECRET=SECRET)
    refused = weft("ledger", "rebuild", "--from", "emergency", "--data-dir", str(tmp_path / "disk"), **layered(server))
    running.kill()
    assert refused.returncode == 2
    assert "is held by process" in refused.stderr


def test_a_kill_during_a_rebuild_never_leaves_half_a_log_to_start_from(tmp_path: Path, server: str) -> None:
    disk, fresh = tmp_path / "disk", tmp_path / "fresh"
    state, cluster = lived(disk, 120)
    publish(disk, server)
    arguments = [sys.executable, "-m", "weft.coordinator", "--rebuild-from", "emergency", "--data-dir", str(fresh)]
    for _ in range(6):
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment(**layered(server)))
        deadline_s = time.monotonic() + 20
        while not (fresh / "rebuilding" / "journal.sqlite").exists() and child.poll() is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=20)
        if child.returncode != 0 and (fresh / "rebuilding").exists():
            started = subprocess.run(
                [sys.executable, "-m", "weft.coordinator", "--port", "0", "--data-dir", str(fresh)],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
                env=environment(WEFT_SECRET=SECRET),
            )
            assert started.returncode == 1
            assert "a rebuild" in started.stderr
    rebuilt = weft("ledger", "rebuild", "--from", "emergency", "--data-dir", str(fresh), **layered(server))
    assert rebuilt.returncode == 0, rebuilt.stderr
    after, members = answers(fresh)
    assert same(state, after)
    assert members | {"position": 0} == cluster | {"position": 0}
