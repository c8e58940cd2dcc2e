"""One suite for every journal: a place for every batch, a refusal for every other, and damage named by position."""

import asyncio
import inspect
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import World, node
from weft.ledger import Journal, MemoryJournal, SqliteJournal, open_journal
from weft.ledger.journal import SharedJournal
from weft.ledger.sqlite import FILE_NAME
from weft.model.batch import SealedBatch
from weft.model.canonical import log_digest
from weft.model.errors import (
    BatchTooLarge,
    JournalDamaged,
    JournalFailed,
    JournalLocked,
    JournalTrimmed,
    PositionTaken,
)
from weft.model.ids import Position
from weft.model.journal import JournalKind, JournalPlace

Opener = Callable[[], Awaitable[Journal]]
LOG = World.founded(*(node(str(number)) for number in range(3))).log
LONG = World.founded()
for number in range(10):
    LONG.do(node(str(number)))


JOURNALS = ("memory", "sqlite", "disk", "nats", "postgres")
SHARED = ("memory", "nats", "postgres")
_names = itertools.count(1)


@pytest.fixture(params=JOURNALS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return opener_of(request, request.param, tmp_path)


@pytest.fixture(params=SHARED)
def shared_opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return opener_of(request, request.param, tmp_path)


def opener_of(request: pytest.FixtureRequest, kind: str, directory: Path) -> Opener:
    """Opens the same journal each time; one in memory is there only once."""
    if kind == "memory":
        return coroutine(MemoryJournal)
    if kind == "sqlite":
        return coroutine(lambda: SqliteJournal(directory))
    if kind == "disk":
        return lambda: open_journal(JournalPlace(kind=JournalKind.SQLITE), directory)
    place = request.getfixturevalue(f"{kind}_server").place(f"suite{next(_names)}")
    return lambda: open_journal(place, directory)


def coroutine(make: Callable[[], Journal]) -> Opener:
    async def opened() -> Journal:
        return make()

    return opened


def use(opener: Opener | Callable[[], Journal], story: Callable[[Any], Awaitable[object]]) -> None:
    async def tell() -> None:
        made = opener()
        journal = await made if inspect.isawaitable(made) else made
        try:
            await story(journal)
        finally:
            await journal.close()

    asyncio.run(tell())


async def append_all(journal: Journal, log: Sequence[SealedBatch], first: int = 0) -> None:
    for position, sealed in enumerate(log, first):
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


@pytest.mark.parametrize("kind", ["sqlite", "nats", "postgres"])
def test_a_durable_journal_is_there_when_it_is_opened_again(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    opener = opener_of(request, kind, tmp_path)

    async def write(journal: Journal) -> None:
        await append_all(journal, LONG.log)

    async def read(journal: Journal) -> None:
        assert list(await journal.read(Position(0), 100)) == LONG.log
        assert list(await journal.read(Position(4), 3)) == LONG.log[4:7]

    use(opener, write)
    use(opener, read)


def test_what_was_let_go_of_is_named_and_the_rest_goes_on(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        await append_all(journal, LONG.log[:9])
        await journal.trim(Position(5))
        assert (await journal.oldest(), await journal.tail()) == (5, 9)
        for after in (0, 3):
            with pytest.raises(JournalTrimmed) as gone:
                await journal.read(Position(after), 10)
            assert gone.value.oldest == 5
        assert list(await journal.read(Position(4), 10)) == LONG.log[4:9]
        assert list(await journal.read(Position(5), 10)) == LONG.log[5:9]
        await journal.append(LONG.log[9], Position(9))
        await journal.trim(Position(3))
        assert (await journal.oldest(), await journal.tail()) == (5, 10)
        await journal.trim(Position(99))
        assert (await journal.oldest(), await journal.tail()) == (10, 10)
        assert list(await journal.read(Position(9), 10)) == LONG.log[9:10]

    use(opener, story)


@pytest.mark.parametrize("kind", ["sqlite", "nats", "postgres"])
def test_a_journal_that_was_trimmed_is_so_when_it_is_opened_again(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    opener = opener_of(request, kind, tmp_path)

    async def write(journal: Journal) -> None:
        await append_all(journal, LONG.log)
        await journal.trim(Position(4))

    async def read(journal: Journal) -> None:
        assert await journal.oldest() == 4
        assert list(await journal.read(Position(3), 100)) == LONG.log[3:]

    use(opener, write)
    use(opener, read)


def test_an_empty_journal_goes_on_where_a_snapshot_ends(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        await journal.begin(Position(6), LONG.log[5].digest)
        assert (await journal.oldest(), await journal.tail()) == (0, 6)
        assert list(await journal.read(Position(6), 10)) == []
        with pytest.raises(PositionTaken):
            await journal.append(LONG.log[0], Position(0))
        await append_all(journal, LONG.log[6:9], first=6)
        assert (await journal.oldest(), await journal.tail()) == (7, 9)
        assert list(await journal.read(Position(6), 10)) == LONG.log[6:9]
        with pytest.raises(JournalTrimmed):
            await journal.read(Position(5), 10)
        with pytest.raises(PositionTaken):
            await journal.begin(Position(6), LONG.log[5].digest)

    use(opener, story)


def test_a_batch_larger_than_the_journal_takes_is_refused_before_it_is_sent(opener: Opener) -> None:
    async def story(journal: Journal) -> None:
        limit_bytes = journal.batch_bytes_max
        body = bytes(limit_bytes + 1)
        large = SealedBatch(batch=LOG[0].batch, body=body, digest=log_digest(body))
        with pytest.raises(BatchTooLarge) as refusal:
            await journal.append(large, Position(0))
        assert refusal.value.limit_bytes == limit_bytes
        assert await journal.tail() == 0
        await journal.append(LOG[0], Position(0))

    use(opener, story)


def test_a_follower_is_woken_by_what_is_appended(shared_opener: Opener) -> None:
    async def story(journal: SharedJournal) -> None:
        await journal.append(LOG[0], Position(0))
        waiting = asyncio.ensure_future(journal.wait(Position(1), 10_000))
        await asyncio.sleep(0.05)
        await journal.append(LOG[1], Position(1))
        await asyncio.wait_for(waiting, 5)
        assert list(await journal.read(Position(1), 10)) == LOG[1:2]
        await asyncio.wait_for(journal.wait(Position(1), 10_000), 5)

    use(shared_opener, story)


def test_a_wait_ends_when_nothing_comes(shared_opener: Opener) -> None:
    use(shared_opener, lambda journal: asyncio.wait_for(journal.wait(Position(0), 20), 5))


def test_only_the_last_pulse_is_kept_and_no_batch_is_made_of_it(shared_opener: Opener) -> None:
    async def story(journal: SharedJournal) -> None:
        assert await journal.last_pulse() == b""
        for sign in (b"one", b"two", b"three"):
            await journal.pulse(sign)
        assert await journal.last_pulse() == b"three"
        await journal.pulse(b"")
        assert await journal.last_pulse() == b""
        assert await journal.tail() == 0

    use(shared_opener, story)


def test_only_the_last_note_is_kept_and_the_next_life_reads_it(shared_opener: Opener) -> None:
    async def story(journal: SharedJournal) -> None:
        assert await journal.last_note() == b""
        for text in (b"one", b"two", b"three"):
            await journal.note(text)
        await journal.pulse(b"alive")
        assert await journal.last_note() == b"three"
        assert await journal.tail() == 0

    use(shared_opener, story)


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
