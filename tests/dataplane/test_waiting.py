"""What waits has given up the GIL, ends by its deadline, is told through a descriptor, and has no thread of its own."""

import asyncio
import contextlib
import gc
import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from weft.dataplane.endpoint import Endpoint, Peer
from weft.dataplane.transfer import Transfer
from weft.model.errors import Cancelled, Closed, TimedOut

SECRET = b"the secret of these tests"


class Pair:
    """Two endpoints that met."""

    def __init__(self) -> None:
        self.owner = Endpoint.listen(secret=SECRET, name="owner", transport="tcp")
        self.other = Endpoint.listen(secret=SECRET, name="other", transport="tcp")
        self.to_owner: Peer = self.other.connect(self.owner.metadata)
        back = self.owner.accept(2_000)
        assert back is not None
        self.to_other: Peer = back


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.other.close()
    made.owner.close()


def passed_while(waiting: Callable[[], object]) -> tuple[int, float]:
    """How often another thread of this interpreter had its turn while this one waited, and how long that was."""
    turns, stop, ready = 0, threading.Event(), threading.Event()

    def count() -> None:
        nonlocal turns
        ready.set()
        while not stop.wait(0.002):
            turns += 1

    thread = threading.Thread(target=count)
    thread.start()
    ready.wait(5)
    before, started = turns, time.monotonic()
    waiting()
    took, counted = time.monotonic() - started, turns - before
    stop.set()
    thread.join()
    return counted, took


def test_other_threads_run_while_one_waits(pair: Pair) -> None:
    receive = pair.to_owner.recv(bytearray(10), tag=1, timeout_ms=250)

    def wait() -> None:
        with pytest.raises(TimedOut):
            receive.wait()

    def accept() -> None:
        assert pair.other.accept(250) is None

    def notifications() -> None:
        assert pair.other.notifications(250) == []

    for waiting in (wait, accept, notifications):
        turns, took = passed_while(waiting)
        assert took >= 0.2
        assert turns >= 5, f"{waiting.__name__} kept the interpreter to itself"


def test_a_transfer_that_is_awaited_ends_by_its_deadline_and_the_loop_goes_on_meanwhile(pair: Pair) -> None:
    async def story() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.002)
                beats += 1

        beating = asyncio.ensure_future(beat())
        started = time.monotonic()
        with pytest.raises(TimedOut) as caught:
            await pair.to_owner.recv(bytearray(10), tag=1, timeout_ms=200)
        assert 0.15 < time.monotonic() - started < 5
        assert caught.value.facts["peer"] == "owner"
        assert caught.value.facts["reason"] == "timed_out"
        assert beats >= 5, "the loop stood still"
        beating.cancel()

    asyncio.run(story())


def test_what_is_awaited_when_its_endpoint_is_closed_ends(pair: Pair) -> None:
    async def story() -> None:
        waiting = [asyncio.ensure_future(_of(pair.to_owner.recv(bytearray(10), tag=tag))) for tag in range(20)]
        await asyncio.sleep(0.01)
        await asyncio.get_running_loop().run_in_executor(None, pair.other.close)
        for one in waiting:
            with pytest.raises(Closed):
                await asyncio.wait_for(one, 5)

    asyncio.run(story())


def test_another_event_loop_is_told_through_the_same_descriptor_and_leaves_none_behind(pair: Pair) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    memory = bytearray(range(256)) * 100

    async def story() -> None:
        buffers = [bytearray(50) for _ in range(100)]
        reads = [pair.to_owner.read(advert, buffer, offset=index) for index, buffer in enumerate(buffers)]
        assert await asyncio.gather(*reads) == [50] * 100
        assert all(buffer == memory[index : index + 50] for index, buffer in enumerate(buffers))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pair.to_owner.recv(bytearray(1), tag=9), 0.001)

    def run() -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(story())
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    with pair.owner.register(memory) as registered:
        advert = registered.advertise()
        run()
        before = run()
        assert max(run() for _ in range(5)) <= before + 1


async def _of(transfer: Transfer) -> int:
    return await transfer


def test_awaiting_many_transfers_makes_no_thread_and_one_descriptor(pair: Pair) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    async def story() -> None:
        # The first transfer brings up what the others use.
        waiting = [asyncio.ensure_future(_of(pair.to_owner.recv(bytearray(10), tag=0)))]
        await pair.to_owner.notify(b"here")
        before = held()
        waiting += [asyncio.ensure_future(_of(pair.to_owner.recv(bytearray(10), tag=tag))) for tag in range(1, 200)]
        await asyncio.sleep(0.02)
        assert all(now <= then for now, then in zip(held(), before, strict=True))
        for one in waiting:
            one.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    asyncio.run(story())


def test_a_transfer_awaited_by_two_tasks_and_two_loops_tells_each(pair: Pair) -> None:
    receive = pair.to_owner.recv(into := bytearray(4), tag=1)
    ended: list[int] = []

    async def story() -> None:
        ended.extend(await asyncio.gather(_of(receive), _of(receive)))

    loops = [threading.Thread(target=lambda: asyncio.run(story())) for _ in range(2)]
    for loop in loops:
        loop.start()
    time.sleep(0.02)
    pair.to_other.send(b"told", tag=1).wait()
    for loop in loops:
        loop.join(10)
    assert (ended, into) == ([4, 4, 4, 4], b"told")


def test_a_transfer_that_is_cancelled_from_another_thread_ends_whoever_waits(pair: Pair) -> None:
    receive = pair.to_owner.recv(bytearray(4), tag=1)
    timer = threading.Timer(0.05, receive.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        receive.wait()
    timer.join()
    assert [receive.poll(), receive.state] == [True, "cancelled"]


def test_a_wait_lets_signals_be_looked_at(pair: Pair) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError("heard")

    receive, old = pair.to_owner.recv(bytearray(4), tag=1), signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = time.monotonic()
        with pytest.raises(InterruptedError):
            receive.wait()
        assert time.monotonic() - started < 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert receive.state in {"queued", "in_flight"}
    pair.to_other.send(b"late", tag=1).wait()
    assert receive.wait() == 4


@pytest.mark.parametrize("verb", ["read", "write", "readv", "writev", "send", "recv", "notify"])
def test_every_verb_takes_a_deadline(verb: str) -> None:
    for name in (verb, f"{verb}_now"):
        if hasattr(Peer, name):
            assert "timeout_ms" in inspect.signature(getattr(Peer, name)).parameters
