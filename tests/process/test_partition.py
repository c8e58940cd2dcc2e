"""Three nodes, and a way between one of them and the coordinator that can be cut: it is offline, and comes back."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.process.test_node_life import BEAT_S, TIMEOUT_MS, Cloud, cloud, until

__all__ = ["cloud"]

pytestmark = pytest.mark.process


class Way:
    """A way to a port on this machine. While it is cut nothing passes, and nobody is told: a pulled cable."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._pipes: set[asyncio.Task[None]] = set()
        self._server = self._do(asyncio.start_server(self._carry, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Let nothing through. What is connected stays so, and hears nothing."""
        self._open = False

    def heal(self) -> None:
        """Let everything through that is sent from now on; what was connected has lost bytes, and ends."""
        self._do(self._end_all())
        self._open = True

    def close(self) -> None:
        self._server.close()
        self._do(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pipes = [
            asyncio.ensure_future(self._pump(reader, there_writer)),
            asyncio.ensure_future(self._pump(there_reader, writer)),
        ]
        self._pipes.update(pipes)
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
                self._pipes.discard(pipe)
            writer.close()
            there_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self._open:
                    writer.write(data)
                    await writer.drain()

    async def _end_all(self) -> None:
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.sleep(0)

    def _do(self, work: "asyncio.Future[None]") -> "asyncio.Server":
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def way(cloud: Cloud) -> Iterator[Way]:
    made = Way(cloud.port)
    yield made
    made.close()


def test_a_node_behind_a_cut_way_is_offline_and_is_back_without_a_restart_when_it_heals(
    cloud: Cloud,
    way: Way,
) -> None:
    coordinator = cloud.begin()
    for name in ("a", "b"):
        cloud.start(name)
    cut_off = cloud.start("c", ORCHESTRATORD_URL=f"http://127.0.0.1:{way.port}")
    for name in ("a", "b", "c"):
        cloud.engine(name)
    until(lambda: all(node["bindings"] for node in cloud.listed().values()))
    assert {placed_on(cloud) for _ in range(3)} == {"a", "b", "c"}

    way.cut()
    took_s = until(lambda: cloud.status("c") == "Offline")
    assert took_s >= TIMEOUT_MS / 1_000 - BEAT_S
    assert [cloud.status(name) for name in ("a", "b")] == ["Online", "Online"]
    assert {placed_on(cloud) for _ in range(4)} == {"a", "b"}
    until(lambda: cloud.listed()["c"]["bindings"] == [])
    ends_s = time.monotonic() + TIMEOUT_MS / 1_000
    until(lambda: time.monotonic() >= ends_s)

    way.heal()
    until(lambda: cloud.status("c") == "Online")
    until(lambda: cloud.listed()["c"]["bindings"] != [])
    until(lambda: placed_on(cloud) == "c")
    assert (cut_off.process.poll(), coordinator.process.poll()) == (None, None)
    lost = [line for line in map(json.loads, told(coordinator.lines)) if line["event"] == "node offline"]
    assert [line["node_id"] for line in lost] == ["c"]


def placed_on(cloud: Cloud) -> str | None:
    """Where a job goes now."""
    return cloud.ask("POST", "/v2/placements", {}).json().get("node_id")


def told(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("{")]
