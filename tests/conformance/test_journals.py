"""One suite for every journal: a place for every batch, a refusal for every other, and damage named by position."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.worlds import World, node
from weft.ledger import Journal, MemoryJournal, SqliteJournal, open_journal
from weft.ledger.sqlite import FILE_NAME
from weft.model.batch import SealedBatch
from weft.model.errors import JournalDamaged, JournalFailed, JournalLocked, PositionTaken
from weft.model.ids import Position

Opener = Callable[[], Journal]
LOG = World.founded(*(node(str(number)) for number in range(3))).log
LONG = World.founded()
for number in range(10):
    LONG.do(node(str(number)))


@pytest.fixture(params=["memory", "sqlite", "disk"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    opened = {
        "memory": MemoryJournal,
        "sqlite": lambda: SqliteJournal(tmp_path),
        "disk": lambda: open_journal(tmp_path),
    }
    return opened[request.param]


def use(opener: Opener, story: Callable[[Journal], Awaitable[object]]) -> None:
    async def tell() -> None:
        journal = opener()
        try:
            await story(journal)
        finally:
            await journal.close()

    asyncio.run(tell())


async def append_all(journal: Journal, log: Sequence[SealedBatch]) -> None:
    for position, sealed in enumerate(log):
        await journal.append(sealed, Position(position))


def test_an_empty_journal_has_its_tail_at_zero(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        assert await journal.tail() == 0
        assert list(await journal.read(Position(0), 10)) == []

    use(opener, story)


def test_what_is_appended_is_read_back_in_order(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        await append_all(journal, LONG.log)
        assert await journal.tail() == len(LONG.log)
        assert list(await journal.read(Position(0), 100)) == LONG.log
        assert list(await journal.read(Position(3), 4)) == LONG.log[3:7]
        assert list(await journal.read(Position(len(LONG.log)), 4)) == []

    use(opener, story)


@pytest.mark.parametrize("expected", [0, 2])
def test_an_append_anywhere_but_at_the_tail_is_refused_and_keeps_nothing(opener: Opener, expected: int) -> None:
    async def story(journal: Journal) -> None:
        await journal.append(LOG[0], Position(0))
        with pytest.raises(PositionTaken) as refusal:
            await journal.append(LOG[1], Position(expected))
        assert refusal.value.position == 1
        assert list(await journal.read(Position(0), 10)) == LOG[:1]
        await journal.append(LOG[1], Position(1))

    use(opener, story)


def test_of_two_appends_at_one_position_one_wins(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        await journal.append(LOG[0], Position(0))
        outcomes = await asyncio.gather(
            *(journal.append(LOG[1], Position(1)) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "PositionTaken"]

    use(opener, story)


def test_a_durable_journal_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    async def write(journal: Journal) -> None:
        await append_all(journal, LONG.log)

    async def read(journal: Journal) -> None:
        assert list(await journal.read(Position(0), 100)) == LONG.log

    use(lambda: SqliteJournal(tmp_path), write)
    use(lambda: SqliteJournal(tmp_path), read)


def written(directory: Path) -> sqlite3.Connection:
    """A connection to a journal of ten batches that no process holds, to do it harm."""
    use(lambda: SqliteJournal(directory), lambda journal: append_all(journal, LONG.log[:10]))
    return sqlite3.connect(directory / FILE_NAME, isolation_level=None)


def damage_at(directory: Path) -> int:
    with pytest.raises(JournalDamaged, match="restore") as damage:
        use(lambda: SqliteJournal(directory), lambda journal: journal.read(Position(0), 100))
    assert str(directory) in str(damage.value)
    return int(damage.value.position)


@pytest.mark.parametrize("position", [1, 5, 10])
@pytest.mark.parametrize("column", ["body", "digest", "parent"])
def test_a_flipped_bit_is_found_and_named_by_its_position(tmp_path: Path, position: int, column: str) -> None:
    with written(tmp_path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM batches WHERE position = ?", (position,)).fetchone()
        flipped = value[:-1] + bytes([value[-1] ^ 1])
        connection.execute(f"UPDATE batches SET {column} = ? WHERE position = ?", (flipped, position))
    connection.close()
    assert damage_at(tmp_path) == position


@pytest.mark.parametrize(("gone", "missing"), [("position = 4", 4), ("position > 7", 8), ("position > 0", 1)])
def test_missing_batches_are_named_by_the_first_of_them(tmp_path: Path, gone: str, missing: int) -> None:
    with written(tmp_path) as connection:
        connection.execute(f"DELETE FROM batches WHERE {gone}")
    connection.close()
    assert damage_at(tmp_path) == missing


def test_exchanged_batches_are_found(tmp_path: Path) -> None:
    with written(tmp_path) as connection:
        connection.executescript(
            "UPDATE batches SET position = -4 WHERE position = 4; UPDATE batches SET position = 4 WHERE position = 5;"
            "UPDATE batches SET position = 5 WHERE position = -4;"
        )
    connection.close()
    assert damage_at(tmp_path) == 4


def test_a_file_that_is_no_journal_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"a letter to a friend" * 100)
    with pytest.raises(JournalFailed, match=FILE_NAME):
        SqliteJournal(tmp_path)


def test_a_journal_of_a_later_layout_is_not_guessed_at(tmp_path: Path) -> None:
    with written(tmp_path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalFailed, match="layout 99"):
        SqliteJournal(tmp_path)


def test_a_second_process_is_told_which_file_and_which_process(tmp_path: Path) -> None:
    async def story(_: Journal) -> None:
        with pytest.raises(JournalLocked) as refusal:
            SqliteJournal(tmp_path)
        assert str(tmp_path) in str(refusal.value)
        assert refusal.value.pid == str(os.getpid())

    use(lambda: SqliteJournal(tmp_path), story)


def test_a_process_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from weft.ledger import SqliteJournal; "
        "SqliteJournal(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=False, env={**os.environ, "PYTHONPATH": "python"}
    )

    async def story(journal: Journal) -> None:
        assert await journal.tail() == 0

    use(lambda: SqliteJournal(tmp_path), story)
