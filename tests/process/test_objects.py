"""Objects on real nodes: put and got over the engine, lost with their holders, spoilt on disk, and healed."""

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import weft
from tests.process.farm import DEADLINE_S, farm, sha256_of
from weft.model.errors import ObjectNotFound, ObjectNotStored, ObjectUnavailable, StoreFull
from weft.model.policy import CHUNK_BYTES

pytestmark = pytest.mark.process

MIB = 1 << 20


def content_of(number: int, size_bytes: int) -> bytes:
    return random.Random(number).randbytes(size_bytes)


def test_a_file_that_was_put_on_two_nodes_comes_back_from_either(tmp_path: Path) -> None:
    content = content_of(1, 2 * CHUNK_BYTES + 12_345)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    with farm("a", "b") as cluster:
        object_hash = cluster.cluster.put(source, replicas=2)
        assert object_hash == sha256_of(source)
        assert cluster.holders(object_hash) == ["a", "b"]
        for name in "ab":
            assert sha256_of(cluster.file_of(name, object_hash)) == object_hash

        assert cluster.cluster.get(object_hash, target) == len(content)
        assert target.read_bytes() == content
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        buffer = bytearray(len(content) + 10)
        assert cluster.cluster.get(object_hash, buffer) == len(content)
        assert buffer[: len(content)] == content

        # Nothing, and the same again.
        assert cluster.cluster.get(cluster.cluster.put(b"", replicas=2)) == b""
        assert cluster.cluster.put(source) == object_hash
        with pytest.raises(ObjectNotFound):
            cluster.cluster.get("0" * 64)


def test_five_nodes_and_two_hundred_objects_heal_after_two_nodes_are_killed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with farm("a", "b", "c", "d", "e") as cluster:
        many = [content_of(number, 2_000 + 37 * number) for number in range(200)]
        with ThreadPoolExecutor(8) as threads:
            contents = dict(zip(threads.map(cluster.cluster.put, many), many, strict=True))
        assert all(len(cluster.holders(one)) == 3 for one in contents)

        cluster.kill("a", "b")
        killed_at = time.monotonic()
        cluster.settled(lambda: cluster.short_count() > 0)
        noticed_at = time.monotonic()
        cluster.settled(lambda: cluster.short_count() == 0)
        healed_at = time.monotonic()

        for object_hash, content in contents.items():
            assert cluster.holders(object_hash) == ["c", "d", "e"]
            for name in "cde":
                assert cluster.file_of(name, object_hash).read_bytes() == content
            assert cluster.cluster.get(object_hash) == content
        listed = cluster.cluster.ask(cluster.cluster.coordinator.objects())
        assert (listed.total, listed.under_replicated, listed.absent, listed.healing) == (200, 0, 0, 0)
    with capsys.disabled():
        print(
            f"\n  200 objects back at 3 copies {healed_at - killed_at:.1f} s after two of five nodes were killed: "
            f"{noticed_at - killed_at:.1f} s to give them up, {healed_at - noticed_at:.1f} s to copy"
        )


def test_silent_corruption_on_a_disk_is_found_by_scrubbing_and_healed() -> None:
    with farm("a", "b", "c", flags=("--scrub-every-ms", "100", "--scrub-rate", "1GiB")) as cluster:
        object_hash = cluster.cluster.put(content_of(7, 100_000))
        spoilt = cluster.file_of("b", object_hash)
        good = spoilt.read_bytes()
        with spoilt.open("r+b") as file:
            file.seek(50_000)
            file.write(bytes([good[50_000] ^ 1]))

        cluster.nodes["b"].line_with(f"the copy of object {object_hash} is corrupt", DEADLINE_S)

        cluster.settled(lambda: cluster.content_of("b", object_hash) == good)
        cluster.settled(lambda: cluster.holders(object_hash) == ["a", "b", "c"])


def test_a_node_that_runs_out_of_descriptors_keeps_its_copies_and_goes_on() -> None:
    with farm("a", "b", flags=("--scrub-every-ms", "100", "--scrub-rate", "1GiB")) as cluster:
        object_hash = cluster.cluster.put(b"healthy", replicas=2)
        cluster.settled(lambda: cluster.holders(object_hash) == ["a", "b"])
        short = cluster.nodes["b"]
        before = resource.prlimit(short.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(short.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))

        short.line_with(f"object {object_hash} could not be looked at", DEADLINE_S)
        # Its connection ends, so that it needs a new one and has no descriptor for it.
        coordinator = cluster.crew._children[0]
        os.kill(coordinator.process.pid, signal.SIGSTOP)
        short.line_with("cannot open a connection", DEADLINE_S)
        os.kill(coordinator.process.pid, signal.SIGCONT)
        assert short.process.poll() is None
        resource.prlimit(short.process.pid, resource.RLIMIT_NOFILE, before)

        cluster.settled(lambda: cluster.holders(object_hash) == ["a", "b"])
        assert cluster.content_of("b", object_hash) == b"healthy"
        assert not any("is corrupt" in line or "is missing" in line for line in short.lines)


def test_a_file_that_vanished_from_a_disk_is_missed_by_scrubbing_and_healed() -> None:
    with farm("a", "b", flags=("--scrub-every-ms", "100", "--scrub-rate", "1GiB")) as cluster:
        object_hash = cluster.cluster.put(b"here today", replicas=2)
        cluster.file_of("a", object_hash).unlink()
        cluster.settled(lambda: cluster.content_of("a", object_hash) == b"here today")


def test_a_put_goes_on_when_a_node_is_killed_in_the_middle() -> None:
    content = content_of(3, 6 * CHUNK_BYTES)
    with farm("a", "b", "c", "d") as cluster:
        cluster.cluster.put(b"warm", replicas=4)
        incoming = [cluster.store_of(name) / "incoming" for name in "abcd"]
        killed: list[str] = []

        def kill_one_that_receives() -> None:
            while not killed:
                for folder in incoming:
                    if any(path.stat().st_size > CHUNK_BYTES for path in folder.iterdir()):
                        killed.append(folder.parent.name)
                        cluster.kill(folder.parent.name)
                        return

        killer = threading.Thread(target=kill_one_that_receives, daemon=True)
        killer.start()
        object_hash = cluster.cluster.put(content, replicas=3)
        killer.join(DEADLINE_S)
        (dead,) = killed

        cluster.settled(lambda: dead not in cluster.holders(object_hash) and len(cluster.holders(object_hash)) == 3)
        assert cluster.cluster.get(object_hash) == content
        for name in cluster.holders(object_hash):
            assert sha256_of(cluster.file_of(name, object_hash)) == object_hash
        # What it had received is gone when it comes back, and it holds nothing it did not finish.
        cluster.start(dead)
        assert list((cluster.store_of(dead) / "incoming").iterdir()) == []


def test_a_put_that_reaches_one_of_three_nodes_is_not_done_also_when_the_others_fell_silent_before_it() -> None:
    with farm("a", "b", "c") as cluster:
        cluster.kill("b", "c")
        cluster.settled(lambda: cluster.cluster.ask(cluster.cluster.coordinator.objects(limit=1)).stores == 1)

        with pytest.raises(ObjectNotStored) as refused:
            cluster.cluster.put(b"three times", replicas=3)

        assert refused.value.nodes == ["a"]
        assert refused.value.reasons.keys() == {"b", "c"}
        assert "weft object remove" in str(refused.value)
        assert cluster.cluster.get(cluster.cluster.put(b"once", replicas=1)) == b"once"
        cluster.start("b")
        assert cluster.cluster.get(cluster.cluster.put(b"three times", replicas=3)) == b"three times"


def test_a_cluster_of_one_node_keeps_what_it_can_and_says_how_much(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"wanted three times")
    with farm("a") as cluster:
        stored = cluster.cluster.objects.put(source, 3)
        assert (stored.nodes, stored.wanted, stored.reasons) == (("a",), 3, {})
        arguments = [sys.executable, "-m", "weft.cli", "put", str(source), "--coordinator", cluster.url]
        environment = {**os.environ, "WEFT_SECRET": cluster.cluster.secret.decode()}
        put = subprocess.run(arguments, env=environment, capture_output=True, timeout=DEADLINE_S, check=True)
        assert b"1 of 3 copies are stored" in put.stderr


def test_a_reader_falls_over_to_another_holder_when_one_lies() -> None:
    content = content_of(5, CHUNK_BYTES + 1_000)
    with farm("a", "b") as cluster:
        object_hash = cluster.cluster.put(content, replicas=2)
        # A liar makes its books fit: the chunk hashes are those of the wrong bytes.
        wrong = bytearray(content)
        wrong[CHUNK_BYTES + 5] ^= 1
        cluster.file_of("a", object_hash).write_bytes(wrong)
        sums = cluster.file_of("a", object_hash).with_name(object_hash + ".chunks")
        sums.write_bytes(hashlib.sha256(wrong[:CHUNK_BYTES]).digest() + hashlib.sha256(wrong[CHUNK_BYTES:]).digest())

        # Holders are asked in any order; in a few reads the liar was asked first.
        for _ in range(12):
            assert cluster.cluster.get(object_hash) == content

        cluster.settled(lambda: cluster.content_of("a", object_hash) == content)
        cluster.settled(lambda: cluster.holders(object_hash) == ["a", "b"])


def test_a_node_that_comes_back_with_its_disk_has_its_copies_and_what_is_too_much_goes() -> None:
    with farm("a", "b", "c", "d") as cluster:
        hashes = [cluster.cluster.put(content_of(n, 5_000)) for n in range(20)]
        cluster.kill("a")
        cluster.settled(lambda: cluster.short_count() > 0)
        cluster.settled(lambda: cluster.short_count() == 0)

        cluster.start("a")

        def everything_three_times() -> bool:
            listed = cluster.cluster.ask(cluster.cluster.coordinator.objects()).objects
            return all(len(one.replicas) == 3 for one in listed)

        cluster.settled(everything_three_times)
        for object_hash in hashes:
            held = [name for name in "abcd" if cluster.file_of(name, object_hash).exists()]
            assert held == cluster.holders(object_hash)


def test_objects_outlive_a_coordinator_that_is_killed_and_every_node_that_is_restarted() -> None:
    with farm("a", "b", "c") as cluster:
        contents = {cluster.cluster.put(content): content for content in (content_of(n, 3_000) for n in range(10))}
        for name in "abc":
            cluster.kill(name)
            cluster.start(name)
        cluster.settled(lambda: all(cluster.holders(one) == ["a", "b", "c"] for one in contents))
        for object_hash, content in contents.items():
            assert cluster.cluster.get(object_hash) == content


def test_an_object_whose_last_copy_is_away_is_absent_and_nobody_plans_for_it() -> None:
    with farm("a", "b") as cluster:
        cluster.cluster.put(b"elsewhere", replicas=2)
        object_hash = cluster.cluster.put(b"only here", replicas=1)
        (holder,) = cluster.holders(object_hash)
        cluster.kill(holder)
        absent = cluster.settled(lambda: cluster.cluster.ask(cluster.cluster.coordinator.objects(absent=True)).objects)
        assert [(one.hash, one.replicas, one.offline) for one in absent] == [(object_hash, [], [holder])]
        assert cluster.cluster.ask(cluster.cluster.coordinator.objects()).healing == 0
        with pytest.raises(ObjectUnavailable):
            cluster.cluster.get(object_hash)

        cluster.start(holder)
        cluster.settled(lambda: cluster.holders(object_hash) == [holder])
        assert cluster.cluster.get(object_hash) == b"only here"


def test_a_store_that_is_full_says_so_and_keeps_what_it_has() -> None:
    with farm("a", "b", flags=("--store-capacity", "1MiB")) as cluster:
        kept = cluster.cluster.put(content_of(1, 700_000), replicas=2)
        with pytest.raises(ObjectNotStored) as refused:
            cluster.cluster.put(content_of(2, 700_000), replicas=2)
        assert refused.value.reasons.keys() == {"a", "b"}
        assert "is on 0 of 2 nodes: a: it has room for " in str(refused.value)
        assert StoreFull.code == "STORE_FULL"
        assert cluster.cluster.get(kept) == content_of(1, 700_000)
        assert [list((cluster.store_of(name) / "incoming").iterdir()) for name in "ab"] == [[], []]


def test_many_readers_wait_for_the_few_slots_of_a_node_and_all_are_served() -> None:
    content = content_of(9, 2 * MIB)
    with farm("a") as cluster:
        object_hash = cluster.cluster.put(content, replicas=1)
        results: list[bool] = []

        def read() -> None:
            with weft.connect(cluster.url, secret=cluster.cluster.secret) as reader:
                results.append(reader.get(object_hash) == content)

        readers = [threading.Thread(target=read) for _ in range(24)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(DEADLINE_S)
        assert results == [True] * 24


def test_the_command_line_puts_gets_lists_and_locates(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"from the command line")
    with farm("a", "b") as cluster:
        environment = {**os.environ, "WEFT_SECRET": cluster.cluster.secret.decode(), "WEFT_COORDINATOR": cluster.url}

        def weft_command(*arguments: str, status: int = 0) -> bytes:
            command = [sys.executable, "-m", "weft.cli", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, timeout=DEADLINE_S, check=False)
            assert done.returncode == status, done.stderr.decode()
            return done.stdout if status == 0 else done.stderr

        object_hash = weft_command("put", str(source), "--replicas", "2").decode().strip()
        assert object_hash == sha256_of(source)
        assert weft_command("get", object_hash) == source.read_bytes()
        weft_command("object", "get", object_hash, "-o", str(target))
        assert target.read_bytes() == source.read_bytes()
        assert weft_command("object", "locate", object_hash).decode().split() == ["a", "b"]
        assert object_hash[:16] in weft_command("object", "list").decode()
        listed = weft_command("object", "list", "--json").decode()
        assert object_hash in listed
        assert "no such objects" in weft_command("object", "list", "--under-replicated").decode()
        assert f"removed {object_hash}" in weft_command("object", "remove", object_hash).decode()
        assert b"it was removed" in weft_command("object", "remove", "0" * 64, status=1)
        assert b"was ever put here" in weft_command("get", "0" * 64, status=1)
        assert b"cannot be read" in weft_command("put", str(tmp_path / "nothing"), status=1)


def test_a_removed_object_frees_the_room_on_a_node_that_had_left_by_sigterm_when_it_is_back() -> None:
    with farm("a", "b", "c") as cluster:
        removed = cluster.cluster.put(b"removed" * 1_000, replicas=3)
        cluster.settled(lambda: cluster.holders(removed) == ["a", "b", "c"])
        cluster.nodes.pop("c").end()
        cluster.settled(lambda: cluster.holders(removed) == ["a", "b"])

        cluster.cluster.objects.remove(removed)

        cluster.settled(lambda: not any(cluster.content_of(name, removed) for name in "ab"))
        assert cluster.content_of("c", removed) == b"removed" * 1_000, "its machine is off"
        cluster.start("c")
        cluster.settled(lambda: cluster.content_of("c", removed) is None)
        cluster.settled(lambda: cluster.cluster.ask(cluster.cluster.coordinator.objects(limit=1)).deleting == 0)


def test_a_removed_object_frees_the_room_on_every_holder_and_on_one_that_was_away_when_it_is_back() -> None:
    with farm("a", "b") as cluster:
        kept, removed = (cluster.cluster.put(content, replicas=2) for content in (b"kept", b"removed" * 1_000))
        for object_hash in (kept, removed):
            cluster.settled(lambda: cluster.holders(object_hash) == ["a", "b"])  # noqa: B023 — settled at once.
        cluster.kill("b")
        cluster.settled(lambda: cluster.holders(removed) == ["a"])

        cluster.cluster.objects.remove(removed)

        with pytest.raises(ObjectNotFound):
            cluster.cluster.get(removed)
        cluster.settled(lambda: cluster.content_of("a", removed) is None)
        assert cluster.content_of("b", removed) == b"removed" * 1_000, "its machine is off"
        cluster.start("b")
        cluster.settled(lambda: cluster.content_of("b", removed) is None)
        for name in ("a", "b"):
            assert cluster.content_of(name, kept) == b"kept"
        assert cluster.cluster.get(kept) == b"kept"
        again = cluster.cluster.put(b"removed" * 1_000, replicas=2)
        assert again == removed
        assert cluster.cluster.get(again) == b"removed" * 1_000
