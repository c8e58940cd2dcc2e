"""Durable events a second by journal, each beside the engine's own client doing the same, and a restart.

One writer, batches of 64 events, the next one when the last is durable. The engine's own client stores the same bytes
under the same promise: a row committed with a sync, a message acknowledged by a server that syncs always.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import nats
from tests.engines import NatsServer, PostgresServer, find_nats_server, find_postgres
from tests.worlds import World, node

from benches.rounds import Row, Sample, heading, in_turn
from weft.ledger import Journal, SqliteJournal, open_journal
from weft.model.batch import SealedBatch
from weft.model.ids import Position

BATCHES, EVENTS = 400, 64
RESTART_EVENTS = 100_000


def make_log() -> list[SealedBatch]:
    world = World.founded()
    for number in range(BATCHES):
        world.batch(*(node(f"n{number}-{turn}") for turn in range(EVENTS)))
    return world.log


def rate(took_s: float, log: list[SealedBatch]) -> Sample:
    return {"events_per_s": sum(len(sealed.batch.entries) for sealed in log) / took_s}


def ours(open_it: Callable[[], Awaitable[Journal]], log: list[SealedBatch]) -> Sample:
    async def run() -> float:
        journal = await open_it()
        began_s = time.perf_counter()
        for place, sealed in enumerate(log):
            await journal.append(sealed, Position(place))
        took_s = time.perf_counter() - began_s
        await journal.close()
        return took_s

    return rate(asyncio.run(run()), log)


def sqlite_client(path: Path, log: list[SealedBatch]) -> Sample:
    """The same row and the same note, from a coroutine by a thread of its own, so that nothing stops for the disk."""

    def write(connection: sqlite3.Connection, sealed: SealedBatch) -> None:
        batch = sealed.batch
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE tail SET position = ?, digest = ?", (batch.position, sealed.digest))
        connection.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?)", (batch.position, batch.parent, sealed.digest, sealed.body)
        )
        connection.execute("COMMIT")

    async def run() -> float:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
            "CREATE TABLE batches (position INTEGER PRIMARY KEY, parent BLOB, digest BLOB, body BLOB);"
            "CREATE TABLE tail (position INTEGER, digest BLOB); INSERT INTO tail VALUES (0, x'00')"
        )
        began_s = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as thread:
            for sealed in log:
                await asyncio.get_running_loop().run_in_executor(thread, write, connection, sealed)
        took_s = time.perf_counter() - began_s
        connection.close()
        return took_s

    return rate(asyncio.run(run()), log)


def nats_client(url: str, name: str, log: list[SealedBatch]) -> Sample:
    async def run() -> float:
        connection = await nats.connect(url)
        jetstream = connection.jetstream()
        await jetstream.add_stream(name=name.upper(), subjects=[f"{name}.log"])
        began_s = time.perf_counter()
        for sealed in log:
            await jetstream.publish(f"{name}.log", sealed.body)
        took_s = time.perf_counter() - began_s
        await connection.close()
        return took_s

    return rate(asyncio.run(run()), log)


def postgres_client(url: str, name: str, log: list[SealedBatch]) -> Sample:
    async def run() -> float:
        connection = await asyncpg.connect(url)
        await connection.execute(
            f"CREATE TABLE {name} (position bigint PRIMARY KEY, parent bytea, digest bytea, body bytea)"
        )
        insert = await connection.prepare(f"INSERT INTO {name} VALUES ($1, $2, $3, $4)")
        began_s = time.perf_counter()
        for sealed in log:
            await insert.fetch(sealed.batch.position, sealed.batch.parent, sealed.digest, sealed.body)
        took_s = time.perf_counter() - began_s
        await connection.close()
        return took_s

    return rate(asyncio.run(run()), log)


def restart(folder: Path) -> Sample:
    """From the start of the process to the line that says it listens, with a log of so many events."""
    environment = os.environ | {"WEFT_DATA_DIR": str(folder), "COORDINATOR_PORT": "0"}
    began_s = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "weft.coordinator"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    assert "listening" in child.stdout.readline()
    took_s = time.perf_counter() - began_s
    child.kill()
    child.communicate(timeout=20)
    return {"restart_s": took_s}


def long_log(folder: Path) -> None:
    """A journal of a hundred thousand events, as a coordinator leaves it when it is killed."""
    world = World.founded()
    for first in range(0, RESTART_EVENTS, 500):
        world.batch(*(node(f"n{number}") for number in range(first, first + 500)))

    async def write() -> None:
        journal = SqliteJournal(folder)
        for place, sealed in enumerate(world.log):
            await journal.append(sealed, Position(place))
        await journal.close()

    asyncio.run(write())


def run() -> list[Row]:
    heading(f"journals (durable events a second, one writer, {EVENTS} events a batch)")
    rows: list[Row] = []
    log = make_log()
    turn = iter(range(1_000))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def fresh() -> Path:
            made = root / str(next(turn))
            made.mkdir()
            return made

        async def sqlite_journal() -> Journal:
            return SqliteJournal(fresh())

        rows += in_turn(
            {"events_per_s": Row("sqlite", "events/s", "≥ 0.80")},
            lambda: sqlite_client(fresh() / "own.sqlite", log),
            lambda: ours(sqlite_journal, log),
        )
        engines: list[tuple[str, NatsServer | PostgresServer, Callable[..., Sample]]] = []
        if find_nats_server() is not None:
            engines.append(("nats", NatsServer(fresh()), nats_client))
        if find_postgres() is not None:
            engines.append(("postgres", PostgresServer(), postgres_client))
        for kind, server, client in engines:
            try:
                rows += in_turn(
                    {"events_per_s": Row(kind, "events/s", "≥ 0.80")},
                    lambda: client(server.url, f"own{next(turn)}", log),  # noqa: B023
                    lambda: ours(lambda: open_journal(server.place(f"ours{next(turn)}"), root), log),  # noqa: B023
                )
            finally:
                server.kill()
        heading(f"a restart after a kill ({RESTART_EVENTS} events; the floor is 2 s)")
        folder_of_log = fresh()
        long_log(folder_of_log)
        rows += in_turn(
            {"restart_s": Row("restart", "s", "≤ 1.00")},
            lambda: {"restart_s": 2.0},
            lambda: restart(folder_of_log),
        )
    return rows
