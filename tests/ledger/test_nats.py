"""What only NATS does: three servers of which one dies, answers that are lost, and a server that does not sync."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import StreamConfig

from tests.engines import NatsCluster, NatsServer
from tests.worlds import World, node
from weft.ledger.nats import NatsJournal
from weft.model.errors import JournalDamaged, JournalFailed, Misconfigured, PositionTaken
from weft.model.ids import Position

WORLD = World.founded()
for number in range(30):
    WORLD.do(node(str(number)))
LOG = WORLD.log


def use(place: Any, story: Callable[[NatsJournal], Awaitable[None]]) -> None:
    async def tell() -> None:
        journal = await NatsJournal.open(place)
        try:
            await story(journal)
        finally:
            await journal.close()

    asyncio.run(tell())


async def append_patiently(journal: NatsJournal, index: int) -> None:
    """Append as the writer does: what is left open is settled by the tail, and what is not there is sent again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await journal.append(LOG[index], Position(index))
            except PositionTaken:
                assert list(await journal.read(Position(index), 1)) == [LOG[index]]
                return None
            except JournalFailed:
                await asyncio.sleep(0.1)


def test_three_servers_lose_nothing_when_the_one_that_leads_is_killed(nats_cluster: NatsCluster) -> None:
    async def story(journal: NatsJournal) -> None:
        for index in range(10):
            await append_patiently(journal, index)
        leader = (await journal._jetstream.stream_info(journal._stream)).cluster.leader
        next(server for server in nats_cluster.servers if server.name == leader).kill()
        for index in range(10, 30):
            await append_patiently(journal, index)
        assert await journal.tail() == 30
        assert list(await journal.read(Position(0), 100)) == LOG[:30]

    use(nats_cluster.place("log"), story)


def test_an_append_whose_answer_was_lost_is_kept_once(nats_server: NatsServer, monkeypatch: Any) -> None:
    async def story(journal: NatsJournal) -> None:
        await journal.append(LOG[0], Position(0))
        publish = journal._jetstream.publish
        sent = 0

        async def deaf(*arguments: Any, **named: Any) -> Any:
            nonlocal sent
            sent += 1
            answer = await publish(*arguments, **named)
            if sent == 1:
                raise TimeoutError
            return answer

        monkeypatch.setattr(journal._jetstream, "publish", deaf)
        await journal.append(LOG[1], Position(1))
        assert sent == 2
        assert await journal.tail() == 2
        assert list(await journal.read(Position(0), 10)) == LOG[:2]

    use(nats_server.place("lost"), story)


def test_what_somebody_else_put_into_the_stream_is_named_by_its_position(nats_server: NatsServer) -> None:
    async def story(journal: NatsJournal) -> None:
        await journal.append(LOG[0], Position(0))
        await journal._jetstream.publish("foreign.log", b"a letter to a friend")
        with pytest.raises(JournalDamaged, match="not one of Weft's") as damage:
            await journal.read(Position(0), 10)
        assert damage.value.position == 2

    use(nats_server.place("foreign"), story)


def test_a_server_that_answers_before_it_syncs_is_refused(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, sync="2m")
    try:
        with pytest.raises(Misconfigured, match="sync_interval: always"):
            use(server.place("hasty"), lambda journal: journal.close())
    finally:
        server.kill()


def test_a_stream_that_forgets_is_refused(nats_server: NatsServer) -> None:
    async def make() -> None:
        journal = await NatsJournal.open(nats_server.place("other"))
        await journal._jetstream.add_stream(StreamConfig(name="FORGETS", subjects=["forgets.log"], max_age=60))
        await journal.close()

    asyncio.run(make())
    with pytest.raises(Misconfigured, match="max_age"):
        use(nats_server.place("forgets"), lambda journal: journal.close())


def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("weft.ledger.nats.JOURNAL_CONNECT_MS_MAX", 300)
    server = NatsServer(tmp_path)
    server.kill()
    place = server.place("gone")
    with pytest.raises(JournalFailed, match=str(server.port)):
        use(type(place)(kind=place.kind, servers=place.servers, shown=place.shown), lambda journal: journal.close())
