"""`weft ledger status|layers|pending|stuck`, on a coordinator with layers in memory."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result

from tests.ledger.lab import ALL, Chance
from tests.worlds import FakeClock, coordinator_door
from weft.cli.__main__ import weft
from weft.ledger.layers import MemoryLayer
from weft.model.availability import AvailabilityPolicy, Role
from weft.testing.faults import Fault

STILL = AvailabilityPolicy(interval_ms=10**9)


class Served:
    """A coordinator on a port of this machine, in a thread of its own, and the layers behind it."""

    def __init__(self) -> None:
        self.layers = {role: MemoryLayer(FakeClock(), Chance(role)) for role in ALL}
        self.url = ""
        self._up, self._down = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with coordinator_door(layers=self.layers, availability=STILL) as door:
            self.availability = door.coordinator.availability
            await self.availability.board.until(lambda now: now.unshipped == 0)
            config = uvicorn.Config(door.coordinator.app, port=0, lifespan="off", log_config=None, ws="none")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 — uvicorn tells nobody when it listens.
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            self._up.set()
            await self._down.wait()
            server.should_exit = True
            await serving

    def do(self, story: Any) -> Any:
        """Run a coroutine where the coordinator runs."""
        return asyncio.run_coroutine_threadsafe(story, self._loop).result(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(20)

    async def outage(self) -> None:
        self.layers[Role.PRIMARY].is_down = True
        for _ in range(3):
            await self.availability.monitor.look(Role.PRIMARY)
        await self.availability.router.store(b"hello world", lambda now: now.active, within_ms=5_000)

    async def sticks(self) -> None:
        primary = self.layers[Role.PRIMARY]
        primary.is_down, primary.fails_before = False, Fault.lasting()
        (blob,) = await self.availability.pending.read(0, 10)
        await self.availability.pending.note_failure(blob.commitment, "the layer refused", is_stuck=True)
        self.availability.board.count_pending(1, 1)
        for _ in range(2):
            await self.availability.monitor.look(Role.PRIMARY)


@pytest.fixture
def served() -> Iterator[Served]:
    one = Served()
    yield one
    one.stop()


def run(served: Served, *arguments: str) -> Result:
    return CliRunner().invoke(weft, ["ledger", *arguments, "--coordinator", served.url])


def test_an_outage_as_the_commands_show_it(served: Served) -> None:
    calm = run(served, "status")
    assert "availability is healthy" in calm.output, calm.output
    assert "nothing is pending" in run(served, "pending").output
    assert "nothing is stuck" in run(served, "stuck").output
    served.do(served.outage())
    assert "availability is degraded" in run(served, "status").output
    shown = run(served, "layers").output
    assert "secondary" in shown
    assert "here" in next(line for line in shown.splitlines() if "secondary" in line)
    (pending,) = json.loads(run(served, "pending", "--json").output)
    assert (pending["source"], pending["size_bytes"], pending["stuck"]) == ("secondary", 11, False)
    assert pending["commitment"][:16] in run(served, "pending").output
    status = json.loads(run(served, "status", "--json").output)
    assert (status["da_state"], status["pending"], len(status["layers"])) == ("degraded", 1, 3)
    assert [layer["role"] for layer in json.loads(run(served, "layers", "--json").output)] == [*ALL]


def test_what_is_stuck_is_listed_and_tried_again_when_somebody_asks(served: Served) -> None:
    served.do(served.outage())
    served.do(served.sticks())
    listed = run(served, "stuck")
    assert "(stuck)" in listed.output
    assert "the layer" in " ".join(listed.output.split())
    failed = run(served, "stuck", "--retry")
    assert failed.exit_code == 1
    assert "1 blobs failed" in failed.output
    served.layers[Role.PRIMARY].fails_before = None
    done = run(served, "stuck", "--retry")
    assert (done.exit_code, "1 of 1 blobs brought to the primary" in done.output) == (0, True), done.output
    assert "nothing is stuck" in run(served, "stuck").output
    assert "availability is healthy" in run(served, "status").output
