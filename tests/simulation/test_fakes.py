"""The fakes are code that users test with, so what they promise is tested."""

import asyncio
import random

import pytest

from weft.client.ports import Request
from weft.coordinator.app import Coordinator
from weft.model.attachment import Mode, Right
from weft.model.errors import Disconnected, ExtentLost, StaleGeneration, TimedOut, Unreachable, WeftError
from weft.model.grant import Grant, grant_key, mint
from weft.model.ids import ClusterId, Generation, RegionId
from weft.testing import Cluster, Fault, LenderDouble, Process, ProcessClock, SimulatedLoop, Weather
from weft.testing.cluster import questions
from weft.testing.host import PLACE
from weft.testing.loop import StuckError


def test_an_hour_passes_at_once() -> None:
    loop = SimulatedLoop()
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.time() == 3_600
    loop.close()


def test_the_loop_serves_asyncio_s_own_runner() -> None:
    async def story() -> list[int]:
        async with asyncio.timeout(5):
            return await asyncio.gather(asyncio.sleep(2, 1), asyncio.to_thread(lambda: 2))

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        assert runner.run(story()) == [1, 2]


def test_what_one_process_calls_soon_runs_in_order_and_timers_of_one_moment_in_any() -> None:
    def order(seed: int) -> tuple[list[int], list[int]]:
        loop, soon, timers = SimulatedLoop(seed), [], []
        for number in range(8):
            loop.call_soon(soon.append, number)
            loop.call_later(1.0, timers.append, number)
        loop.run_for(2.0)
        return soon, timers

    assert all(order(seed)[0] == list(range(8)) for seed in range(5))
    assert len({tuple(order(seed)[1]) for seed in range(5)}) > 1
    assert order(3) == order(3)


def test_waiting_for_what_cannot_come_is_an_error_and_not_a_hang() -> None:
    loop = SimulatedLoop()
    with pytest.raises(StuckError):
        loop.run_until_complete(loop.create_future())


def test_a_paused_process_finds_its_timers_late() -> None:
    loop = SimulatedLoop()
    process = Process(loop, "p", seed="p", clock=ProcessClock(loop))
    rang: list[float] = []

    async def sleep() -> None:
        await asyncio.sleep(1)
        rang.append(loop.time())

    process.spawn(sleep())
    loop.run_for(0.5)
    process.pause()
    loop.run_for(9.5)
    assert rang == []
    process.resume()
    loop.run_for(0.0)
    assert rang == [10.0]


def test_a_wall_clock_that_jumps_leaves_the_monotonic_one_alone() -> None:
    clock = ProcessClock(SimulatedLoop())
    before = clock.now_ms(), clock.monotonic_ms()
    clock.jump(-3_600_000)
    assert clock.now_ms() == before[0] - 3_600_000
    assert clock.monotonic_ms() == before[1]


def test_faults_strike_when_they_should() -> None:
    assert [Fault.after(2).strikes()] == [False]
    countdown = Fault.after(2)
    assert [countdown.strikes() for _ in range(4)] == [False, False, True, False]
    assert all(Fault.lasting().strikes() for _ in range(3))
    assert not Fault().strikes()
    half = Fault(random.Random(1), chance=0.5)
    assert 20 < sum(half.strikes() for _ in range(100)) < 80


def test_a_coordinator_that_lost_power_comes_back_with_what_it_acknowledged() -> None:
    cluster = running(agents=2)
    program = cluster.program("p")
    cluster.do(program, cluster.ask(program, questions.plan_region("kept", 4 << 20)))
    cluster.host.kill(silently=True)
    cluster.host.start()
    found = cluster.do(program, cluster.ask(program, questions.region("kept")))
    assert found.size_bytes == 4 << 20
    cluster.close()


def test_a_batch_that_was_being_synced_when_power_went_is_there_or_not_and_nobody_was_told() -> None:
    kept = set()
    for seed in range(12):
        cluster = running(seed=seed, agents=1)
        cluster.host.disk.sync_s = 1.0
        program = cluster.program("p")
        asked = program.spawn(cluster.ask(program, questions.plan_region("r", 4 << 20)))
        cluster.loop.run_for(0.5)
        assert not asked.done()
        cluster.host.kill(silently=True)
        kept.add(any(b"RegionPlanned" in row.body for row in cluster.host.rows()))
        asked.cancel()
        cluster.close()
    assert kept == {True, False}


def test_a_link_cut_on_the_way_back_loses_the_answer_and_not_the_deed() -> None:
    cluster = running(agents=1)
    program = cluster.program("p")
    cluster.network.cut(PLACE, "p", both=False)
    with pytest.raises((TimedOut, Unreachable)):
        cluster.do(program, cluster.ask(program, questions.plan_region("r", 4 << 20, patience_s=30)))
    cluster.network.heal_all()
    cluster.loop.run_for(10)
    assert cluster.do(program, cluster.ask(program, questions.region("r"))).name == "r"
    cluster.close()


def test_a_request_that_arrives_twice_happens_once() -> None:
    cluster = running(agents=1)
    program = cluster.program("p")
    cluster.network.weather = Weather(repeat=1.0)
    opened = cluster.do(program, cluster.ask(program, questions.plan_region("r", 4 << 20)))
    cluster.loop.run_for(5)
    assert opened.state == "planned"
    assert sum(row.body.count(b"RegionPlanned") for row in cluster.host.rows()) == 1
    cluster.close()


def test_a_killed_process_says_nothing_more() -> None:
    cluster = running(agents=1)
    process = cluster.machines["n0"].process
    assert process is not None
    cluster.machines["n0"].kill()
    cluster.trace.note("from here on")
    cluster.loop.run_for(20)
    lines = cluster.trace.last()
    begun = next(index for index, line in enumerate(lines) if line.endswith("from here on"))
    assert not any(" n0 > " in line for line in lines[begun:])
    with pytest.raises(Unreachable):
        cluster.do(cluster.program("p"), cluster.network.send(process, PLACE, look(), 1.0))
    cluster.close()


def test_whoever_waits_for_a_killed_server_is_told_and_for_one_without_power_is_not() -> None:
    for silently, told in ((False, Disconnected), (True, TimedOut)):
        cluster = running(agents=1)
        program = cluster.program("p")
        body = Request(method="GET", target="/regions/none", headers={}, body=None)
        cluster.host.disk.sync_s = 100.0
        body = Request(method="POST", target="/regions", headers={}, body=b'{"name": "r", "size_bytes": 4096}')
        asked = program.spawn(cluster.network.send(program, PLACE, body, 3.0))
        cluster.loop.run_for(0.5)
        cluster.host.kill(silently=silently)
        cluster.loop.run_for(5)
        assert isinstance(asked.exception(), told)
        cluster.close()


def test_the_lender_double_refuses_what_the_native_server_refuses() -> None:
    loop = SimulatedLoop()
    lender = LenderDouble(50_051, secret=b"secret", clock=ProcessClock(loop))
    loop.run_until_complete(lender.reserve_extent("r1", 0, 4096, 3))
    assert lender.access(granted(3), 0).generation == 3
    loop.run_until_complete(lender.raise_generation("r1", 4))
    loop.run_until_complete(lender.raise_generation("r1", 2))
    refused: list[type[WeftError]] = []
    for generation, index in ((3, 0), (4, 1)):
        with pytest.raises(WeftError) as caught:
            lender.access(granted(generation), index)
        refused.append(caught.type)
    assert refused == [StaleGeneration, ExtentLost]
    assert lender.access(granted(4), 0).generation == 4


def running(seed: int = 1, *, agents: int) -> Cluster:
    """A cluster in which every agent is online."""
    cluster = Cluster(seed, agents=agents)
    cluster.start()
    assert cluster.loop.run_until(lambda: len(cluster.online()) == agents, 30)
    assert isinstance(cluster.host.coordinator, Coordinator)
    return cluster


def look() -> Request:
    return Request(method="GET", target="/health", headers={}, body=None)


def granted(generation: int) -> bytes:
    grant = Grant(
        cluster_id=ClusterId(bytes(16)),
        region_id=RegionId("r1"),
        generation=Generation(generation),
        mode=Mode.EXCLUSIVE,
        rights=Right.READ | Right.WRITE,
        holder="me",
        expires_at_ms=1 << 50,
    )
    return mint(grant, grant_key(b"secret"))
