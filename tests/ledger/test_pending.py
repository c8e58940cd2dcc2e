"""The pending list: what is on it, in which order, what takes a blob off, and what it survives."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from weft.ledger.pending import FILE_NAME, PendingList
from weft.model.availability import Role
from weft.model.errors import PendingFailed
from weft.model.ids import Position

Story = Callable[[PendingList], Awaitable[None]]


def with_list(story: Story, directory: Path | None = None) -> None:
    async def tell() -> None:
        pending = PendingList(directory)
        try:
            await story(pending)
        finally:
            await pending.close()

    asyncio.run(tell())


async def add(pending: PendingList, *names: str, source: Role = Role.SECONDARY) -> None:
    for name in names:
        await pending.add(name, source, 1_000, 5)


async def names(pending: PendingList, *, is_stuck: bool | None = None) -> list[str]:
    return [blob.commitment for blob in await pending.read(0, 1_000, is_stuck=is_stuck)]


def test_blobs_stand_in_the_order_they_came() -> None:
    async def story(pending: PendingList) -> None:
        await add(pending, "c", "a", "b")
        assert await names(pending) == ["c", "a", "b"]
        first, second, _ = await pending.read(0, 10)
        assert (first.sequence, first.source, first.retry_count, first.last_error) == (1, Role.SECONDARY, 0, None)
        assert [blob.commitment for blob in await pending.read(second.sequence, 10)] == ["b"]

    with_list(story)


def test_a_blob_that_is_put_twice_is_pending_once() -> None:
    async def story(pending: PendingList) -> None:
        await add(pending, "a", "b", "a")
        assert (await names(pending), pending.count) == (["a", "b"], 2)

    with_list(story)


def test_only_settling_takes_a_blob_off_and_it_is_remembered() -> None:
    async def story(pending: PendingList) -> None:
        await add(pending, "a", "b", "c")
        await pending.settle(["b", "unheard of"])
        assert (await names(pending), pending.count) == (["a", "c"], 2)
        assert await pending.settled(10) == [("b", Role.SECONDARY)]
        assert await pending.sources("b") == [Role.SECONDARY]
        assert await pending.sources("unheard of") == []

    with_list(story)


def test_a_settled_blob_that_a_fallback_took_again_is_pending_again() -> None:
    async def story(pending: PendingList) -> None:
        await add(pending, "a")
        await pending.settle(["a"])
        await add(pending, "a", source=Role.EMERGENCY)
        assert (await names(pending), set(await pending.sources("a"))) == (["a"], {Role.SECONDARY, Role.EMERGENCY})
        await pending.settle(["a"])
        assert await pending.settled(10) == [("a", Role.EMERGENCY)]

    with_list(story)


def test_a_blob_whose_retries_are_used_up_is_stuck_and_never_dropped() -> None:
    # The original dropped it.
    async def story(pending: PendingList) -> None:
        await add(pending, "a", "b")
        for attempt in range(4):
            await pending.note_failure("a", f"refused {attempt}", is_stuck=attempt == 3)
        assert (pending.count, pending.stuck_count) == (2, 1)
        (stuck,) = await pending.read(0, 10, is_stuck=True)
        assert (stuck.retry_count, stuck.last_error) == (4, "refused 3")
        assert await names(pending, is_stuck=False) == ["b"]
        assert await pending.free_stuck() == 1
        assert (await names(pending, is_stuck=False), pending.stuck_count) == (["a", "b"], 0)

    with_list(story)


def test_the_list_and_the_notes_are_there_after_a_restart(tmp_path: Path) -> None:
    async def before(pending: PendingList) -> None:
        await pending.add("a", Role.EMERGENCY, 7, 11, Position(42))
        await add(pending, "b")
        await pending.note_failure("b", "no", is_stuck=True)
        await pending.settle(["unheard of"])
        await pending.note("primary", "17")
        await pending.note("primary", "18")

    async def after(pending: PendingList) -> None:
        first, _ = await pending.read(0, 10)
        assert (first.source, first.stored_at_ms, first.size_bytes, first.position) == (Role.EMERGENCY, 7, 11, 42)
        assert (pending.count, pending.stuck_count) == (2, 1)
        assert (await pending.noted("primary"), await pending.noted("unheard of")) == ("18", None)

    with_list(before, tmp_path)
    with_list(after, tmp_path)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from weft.ledger.pending import PendingList
from weft.model.availability import Role

async def main():
    pending = PendingList(Path(sys.argv[1]))
    for number in range(1_000_000):
        await pending.add(f"{number:064x}", Role.SECONDARY, number, 5)
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 50:
                process.send_signal(signal.SIGKILL)
        acknowledged = int(line)

    async def story(pending: PendingList) -> None:
        found = await names(pending)
        assert found[: acknowledged + 1] == [f"{number:064x}" for number in range(acknowledged + 1)]
        assert pending.count == len(found)

    with_list(story, tmp_path)


def test_a_torn_tail_is_cut_off_and_what_was_synced_before_it_stays(tmp_path: Path) -> None:
    pending = PendingList(tmp_path)
    asyncio.run(add(pending, "a", "b", "c"))
    # As a power cut leaves it: nobody closed the file, and the end of what was last written is not there.
    log = (tmp_path / f"{FILE_NAME}-wal").read_bytes()
    for torn_bytes in (1, 100, 4_097):
        cut = tmp_path / f"cut-{torn_bytes}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes())
        (cut / f"{FILE_NAME}-wal").write_bytes(log[:-torn_bytes])

        async def story(reopened: PendingList) -> None:
            assert await names(reopened) == ["a", "b"]
            assert reopened.count == 2

        with_list(story, cut)
    asyncio.run(pending.close())


def test_a_file_that_is_no_list_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"nonsense" * 1_000)
    with pytest.raises(PendingFailed, match=FILE_NAME):
        PendingList(tmp_path)


def test_settled_blobs_are_remembered_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.ledger.pending.SETTLED_KEPT_MAX", 3)

    async def story(pending: PendingList) -> None:
        await add(pending, *"abcdef")
        await pending.settle("abcde")
        assert [name for name, _ in await pending.settled(10)] == ["e", "d", "c"]

    with_list(story)
