"""Handoff files: known by what they say, read whole, and gone when their engine is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from weft.api.bodies.pools import PoolBody
from weft.api.doors.pools import pool_to_body
from weft.handoff import EnginePools, Handoff, HandoffDirectory, process_is_alive, write_handoff

SAID: dict[str, Any] = {
    "pool_id": "pool-0",
    "replica_id": "r1",
    "engine": "llamacpp",
    "engine_version": "b4000",
    "url": "http://127.0.0.1:8081",
    "device_mask": "1,0",
    "slots_total": 4,
    "slots_free": 3,
    "pid": 7,
}


class Machine:
    """A directory, the processes that live, and the pools that follow."""

    def __init__(self, path: Path, *promised: str) -> None:
        self.path = path
        self.refused: list[str] = []
        self.directory = HandoffDirectory(path, lambda path, why: self.refused.append(f"{path.name}: {why}"))
        self.pools = EnginePools(promised)
        self.living = {7}

    def write(self, name: str = "a.json", text: str | None = None, **changed: Any) -> None:
        self.path.mkdir(exist_ok=True)
        draft = self.path / f"{name}.draft"
        draft.write_text(json.dumps({**SAID, **changed}) if text is None else text)
        draft.replace(self.path / name)

    def look(self) -> bool:
        return self.pools.see(self.directory.look(), self.living.__contains__)

    def ready(self) -> dict[str, bool]:
        return {pool.pool_id: pool.ready for pool in self.pools.snapshots()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "engines", "pool-0")


def test_a_machine_without_engines_has_its_pools_and_none_is_ready(machine: Machine) -> None:
    assert machine.look() is False
    assert machine.ready() == {"pool-0": False}


def test_a_file_makes_its_pool_ready_with_what_it_says(machine: Machine) -> None:
    machine.write()
    assert machine.look() is True
    (pool,) = machine.pools.snapshots()
    assert (pool.ready, pool.slots_free, pool.slots_total, pool.engine) == (True, 3, 4, "llamacpp")
    assert (pool.replica_id, pool.url, pool.devices) == ("r1", "http://127.0.0.1:8081", ("0", "1"))
    assert machine.look() is False


def test_a_file_that_is_written_again_under_its_name_is_seen(machine: Machine) -> None:
    machine.write()
    machine.look()
    machine.write(url="http://127.0.0.1:8082")
    assert machine.look() is True
    assert machine.pools.snapshots()[0].url == "http://127.0.0.1:8082"


def test_a_second_pool_in_the_file_of_another_is_seen(machine: Machine) -> None:
    machine.write("engine.json")
    machine.look()
    machine.write("engine.json", pool_id="pool-1")
    machine.look()
    assert machine.ready() == {"pool-0": False, "pool-1": True}


def test_a_file_that_is_deleted_leaves_its_pool_not_ready(machine: Machine) -> None:
    machine.write()
    machine.look()
    (machine.path / "a.json").unlink()
    assert machine.look() is True
    (pool,) = machine.pools.snapshots()
    assert (pool.ready, pool.slots_free, pool.url) == (False, 0, None)


def test_a_dead_process_leaves_its_pool_not_ready_though_the_file_is_there(machine: Machine) -> None:
    machine.write()
    machine.look()
    machine.living.clear()
    assert machine.look() is True
    assert machine.ready() == {"pool-0": False}


def test_a_file_that_is_half_written_is_read_again_and_what_it_said_before_holds(machine: Machine) -> None:
    machine.write()
    machine.look()
    machine.write(text='{"pool_id": "po')
    assert machine.look() is False
    assert machine.ready() == {"pool-0": True}
    machine.write(slots_free=0)
    assert machine.look() is True
    assert machine.pools.busy_slots == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        '{"pool_id": "pool-0"}',
        '{"url": "ftp://a"}',
        '{"url": "http://a", "pid": 0}',
        "x" * 70_000,
    ],
)
def test_a_file_that_says_nothing_usable_makes_nothing_ready(machine: Machine, text: str) -> None:
    machine.write(text=text)
    assert machine.look() is False


def test_what_a_file_does_not_say_has_a_default(machine: Machine) -> None:
    machine.write(text='{"url": "http://127.0.0.1:1", "something": "else"}')
    machine.look()
    (pool, _) = machine.pools.snapshots()
    assert (pool.pool_id, pool.replica_id, pool.slots_free, pool.slots_total) == ("default", "r0", 1, 1)


@pytest.mark.parametrize(
    ("said", "free", "total"),
    [
        ({"slots_total": 4, "slots_free": 9}, 4, 4),
        ({"slots": 3}, 3, 3),
        ({"slots": 3, "slots_total": 5, "slots_free": 1}, 1, 5),
        ({"slots_free": 5}, 1, 1),
    ],
)
def test_free_slots_are_never_more_than_there_are(machine: Machine, said: Any, free: int, total: int) -> None:
    machine.write(text=json.dumps({"url": "http://a:1", "pool_id": "pool-0", **said}))
    machine.look()
    (pool,) = machine.pools.snapshots()
    assert (pool.slots_free, pool.slots_total) == (free, total)


def test_every_replica_of_a_pool_has_its_own_slots_and_address(machine: Machine) -> None:
    machine.write("a.json", replica_id="r0")
    machine.write("b.json", replica_id="r1", url="http://127.0.0.1:8082", slots_free=1)
    machine.look()
    assert [(one.pool_id, one.replica_id, one.slots_free, one.url) for one in machine.pools.snapshots()] == [
        ("pool-0", "r0", 3, "http://127.0.0.1:8081"),
        ("pool-0", "r1", 1, "http://127.0.0.1:8082"),
    ]
    assert machine.pools.busy_slots == 4


def test_a_replica_that_is_gone_is_forgotten_while_another_lives_and_the_last_one_stays_as_not_ready(
    machine: Machine,
) -> None:
    machine.write("a.json", replica_id="r0")
    machine.write("b.json", replica_id="r1")
    machine.look()
    (machine.path / "a.json").unlink()
    assert machine.look() is True
    assert [(one.replica_id, one.ready) for one in machine.pools.snapshots()] == [("r1", True)]
    (machine.path / "b.json").unlink()
    assert machine.look() is True
    assert [(one.replica_id, one.ready) for one in machine.pools.snapshots()] == [("r1", False)]
    machine.write("c.json", replica_id="r2")
    assert machine.look() is True
    assert [(one.replica_id, one.ready) for one in machine.pools.snapshots()] == [("r2", True)]


def test_of_two_files_for_one_replica_the_last_by_name_counts(machine: Machine) -> None:
    machine.write("a.json", url="http://127.0.0.1:1")
    machine.write("b.json", url="http://127.0.0.1:2")
    machine.look()
    assert [one.url for one in machine.pools.snapshots()] == ["http://127.0.0.1:2"]


def test_only_json_files_are_looked_at(machine: Machine) -> None:
    machine.write("a.txt")
    machine.write(".a.json.123")
    assert machine.look() is False


def test_what_is_written_whole_is_read_back(machine: Machine) -> None:
    path = write_handoff(machine.path, Handoff(url="http://127.0.0.1:8081", pool_id="pool-0", replica_id="r2"))
    assert path.name == "pool-0-r2.json"
    machine.look()
    assert machine.ready() == {"pool-0": True}
    assert [entry.name for entry in machine.path.iterdir()] == ["pool-0-r2.json"]


def test_every_pool_drains_with_its_machine(machine: Machine) -> None:
    machine.write()
    machine.look()
    assert [pool.draining for pool in machine.pools.snapshots(draining=True)] == [True]
    assert [pool.draining for pool in machine.pools.snapshots()] == [False]


def test_a_process_that_ended_is_not_alive_even_before_it_is_waited_for() -> None:
    assert process_is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process_is_alive(child.pid)
    child.wait()
    child.stdout.close()
    assert not process_is_alive(child.pid)


@pytest.mark.parametrize("field", ["pool_id", "replica_id", "url"])
@pytest.mark.parametrize("end", ["\n", "\n\n", " \n", "\r\n", "\u2028", "\x00"])
def test_what_a_file_may_say_is_what_a_beat_may_say(machine: Machine, field: str, end: str) -> None:
    machine.write(**{field: SAID[field] + end})
    machine.look()
    for pool in machine.pools.snapshots():
        msgspec.json.decode(msgspec.json.encode(pool_to_body(pool)), type=PoolBody)


@pytest.mark.parametrize(
    "said",
    [
        {"slots_total": 2**53 - 1, "slots_free": 2**53 - 1},
        {"device_mask": ",".join("abcdefghij" * 12)},
        {"device_mask": "x" * 256},
        {"models_available": ["m" * 256] * 200},
        {"engine": "e" * 256},
        {"pool_id": "p" * 256, "replica_id": "r" * 256},
        {"url": "http://" + "h" * 2_041},
    ],
)
def test_the_most_a_file_may_say_fits_into_a_beat(machine: Machine, said: dict[str, Any]) -> None:
    machine.write(**said)
    machine.look()
    assert any(pool.ready for pool in machine.pools.snapshots())
    for pool in machine.pools.snapshots():
        msgspec.json.decode(msgspec.json.encode(pool_to_body(pool)), type=PoolBody)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"pool_id": "pool-0"', "truncated"),
        ('{"pool_id": "pool-0"}', "url"),
        ('{"url": "http://h", "slots_total": "four"}', "slots_total"),
        ('{"url": "http://h"}' + " " * 65_536, "65536 bytes"),
    ],
)
def test_a_file_that_stays_unreadable_is_told_of_once_with_the_reason_and_one_that_is_being_written_is_not(
    machine: Machine, text: str, why: str
) -> None:
    machine.write(text=text)
    machine.look()
    assert machine.refused == [], "it may be half written"
    for _ in range(3):
        machine.look()
    (told,) = machine.refused
    assert told.startswith("a.json: ")
    assert why in told
    machine.write()
    machine.look()
    assert machine.ready() == {"pool-0": True}
    machine.write(text=text)
    for _ in range(3):
        machine.look()
    assert len(machine.refused) == 2, "it is unreadable anew"
    assert machine.ready() == {"pool-0": True}, "and what it said before holds"


def test_a_file_that_is_no_text_is_unreadable_like_any_other_and_ends_nobody(machine: Machine) -> None:
    machine.path.mkdir()
    (machine.path / "a.json").write_bytes(b'{"url": "http://h", "pool_id": "\xff"}')
    machine.look()
    machine.look()
    assert len(machine.refused) == 1
    assert machine.ready() == {"pool-0": False}


def test_a_process_that_calls_itself_by_bytes_that_are_no_text_lives_all_the_same() -> None:
    program = "open('/proc/self/comm', 'wb').write(b'engine \\xff)'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        assert process_is_alive(engine.pid)
        engine.kill()
        engine.wait(timeout=10)
        assert not process_is_alive(engine.pid)
