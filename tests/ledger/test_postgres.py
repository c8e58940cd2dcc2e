"""What only PostgreSQL does: a server that is restarted, one that does not sync, and damage in its tables."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.engines import PostgresServer
from tests.worlds import World, node
from weft.ledger.postgres import PostgresJournal
from weft.model.errors import JournalDamaged, JournalFailed, Misconfigured
from weft.model.ids import Position

WORLD = World.founded()
for number in range(10):
    WORLD.do(node(str(number)))
LOG = WORLD.log


def use(place: Any, story: Callable[[PostgresJournal], Awaitable[None]]) -> None:
    async def tell() -> None:
        journal = await PostgresJournal.open(place)
        try:
            await story(journal)
        finally:
            await journal.close()

    asyncio.run(tell())


async def append_all(journal: PostgresJournal, first: int = 0, last: int = len(LOG)) -> None:
    for index in range(first, last):
        await journal.append(LOG[index], Position(index))


async def execute(server: PostgresServer, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def test_a_connection_that_broke_is_made_anew(postgres_server: PostgresServer) -> None:
    async def story(journal: PostgresJournal) -> None:
        await append_all(journal, last=4)
        await execute(
            postgres_server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'weft' AND pid <> pg_backend_pid()",
        )
        try:
            await append_all(journal, first=4, last=5)
        except JournalFailed:
            assert await journal.tail() == 4
            await append_all(journal, first=4, last=5)
        assert list(await journal.read(Position(0), 10)) == LOG[:5]
        waiting = asyncio.ensure_future(journal.wait(Position(5), 10_000))
        await asyncio.sleep(0.1)
        await append_all(journal, first=5, last=6)
        await asyncio.wait_for(waiting, 5)

    use(postgres_server.place("broken"), story)


def test_two_coordinators_may_prepare_the_same_schema_at_once(postgres_server: PostgresServer) -> None:
    async def tell() -> None:
        place = postgres_server.place("together")
        journals = await asyncio.gather(*(PostgresJournal.open(place) for _ in range(4)))
        await append_all(journals[0], last=2)
        assert list(await journals[1].read(Position(0), 10)) == LOG[:2]
        for journal in journals:
            await journal.close()

    asyncio.run(tell())


@pytest.mark.parametrize(
    ("harm", "position"),
    [
        ("UPDATE {}.batches SET body = set_byte(body, 10, get_byte(body, 10) # 1) WHERE position = 5", 5),
        ("UPDATE {}.batches SET digest = set_byte(digest, 0, get_byte(digest, 0) # 1) WHERE position = 7", 7),
        ("DELETE FROM {}.batches WHERE position = 4", 4),
        ("DELETE FROM {}.batches WHERE position > 8", 9),
        ("DELETE FROM {}.batches", 1),
    ],
)
def test_damage_is_found_and_named_by_its_position(postgres_server: PostgresServer, harm: str, position: int) -> None:
    name = f"harmed{abs(hash(harm))}"

    async def story(journal: PostgresJournal) -> None:
        await append_all(journal, last=10)
        await execute(postgres_server, harm.format(name))
        with pytest.raises(JournalDamaged) as damage:
            await journal.read(Position(0), 100)
        assert damage.value.position == position

    use(postgres_server.place(name), story)


def test_a_server_that_does_not_sync_is_refused() -> None:
    server = PostgresServer("fsync=off")
    try:
        with pytest.raises(Misconfigured, match="fsync"):
            use(server.place("hasty"), lambda journal: journal.close())
    finally:
        server.kill()


def test_a_session_syncs_whatever_the_servers_default_is() -> None:
    server = PostgresServer("synchronous_commit=off")
    try:

        async def story(journal: PostgresJournal) -> None:
            async with journal._connected("look") as connection:
                assert await connection.fetchval("SHOW synchronous_commit") == "on"

        use(server.place("default"), story)
    finally:
        server.kill()
