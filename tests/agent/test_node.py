"""A node against the real coordinator: coming in, doing what it is told, coming back, leaving."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.agent.world import (
    DEADLINE_S,
    MIB,
    FakeMemory,
    World,
    found_coordinator,
    node_settings,
    settled,
    until,
    world,
)
from weft.agent.node import Node
from weft.agent.outlet import Outlet
from weft.api.bodies.cluster import ClusterDestroyedBody
from weft.client.call import Call, perform
from weft.client.flow import Flow
from weft.client.ports import AsyncSystemClock
from weft.dataplane import PeerDistance, RdmaRecord
from weft.model.endpoint import parse_gid
from weft.model.errors import CapacityExceeded, ClusterNotFound, IncarnationRetired, RegionNotReady, Unreachable


def run(story: Callable[[World], Awaitable[None]]) -> None:
    """Runs a story in a world of its own."""

    async def told() -> None:
        async with world() as made:
            await story(made)

    asyncio.run(told())


def test_the_first_node_founds_the_cluster_and_the_next_joins_it() -> None:
    async def story(made: World) -> None:
        first = await made.start("a", lend_mib=4096)
        await made.start("b")

        cluster = await made.ask(made.questions.cluster())
        assert cluster.name == "weft"
        assert [member.node_id for member in cluster.members] == ["a", "b"]
        assert first.announced == ["weft node a lending 4.0 GiB at 127.0.0.1:50051"]

    run(story)


def test_two_nodes_that_are_first_at_once_are_in_one_cluster() -> None:
    async def story(made: World) -> None:
        nodes = [made.begin(name) for name in "abcd"]
        await until(lambda: all(node.announced for node in nodes))

        cluster = await made.ask(made.questions.cluster())
        assert cluster.nodes == 4

    run(story)


def test_the_endpoint_that_is_registered_is_the_port_that_listens() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")

        endpoints = await made.ask(made.questions.endpoints())
        assert endpoints.endpoints["a"].tcp_port == node.memory.port

    run(story)


def test_a_node_with_rdma_publishes_its_queue_pair_and_stays_reachable_over_tcp() -> None:
    def with_rdma(memory: FakeMemory) -> None:
        memory.rdma = RdmaRecord(queue_pair=17, lid=0, gid="::ffff:10.0.2.15", packet_sequence=0xABCDEF)

    async def story(made: World) -> None:
        node = await made.start("a", prepare=with_rdma)
        await made.start("b")

        endpoints = (await made.ask(made.questions.endpoints())).endpoints
        published = endpoints["a"]
        assert published.transport_type == "rdma"
        assert (published.rdma_qpn, published.rdma_lid, published.rdma_psn) == (17, 0, 0xABCDEF)
        assert parse_gid(published.rdma_gid or "") == parse_gid("::ffff:10.0.2.15")
        assert published.tcp_port == node.memory.port
        assert endpoints["b"].transport_type == "tcp"

    run(story)


def test_a_device_that_is_lost_or_found_is_registered_and_said() -> None:
    record = RdmaRecord(queue_pair=17, lid=0, gid="::ffff:10.0.2.15", packet_sequence=1)

    def with_rdma(memory: FakeMemory) -> None:
        memory.rdma, memory.looks_for_rdma = record, True

    async def story(made: World) -> None:
        node = await made.start("a", prepare=with_rdma)

        async def is_registered_as(transport: str) -> None:
            await settled(
                lambda: made.ask(made.questions.endpoints()),
                lambda seen: seen.endpoints["a"].transport_type == transport,
            )

        await is_registered_as("rdma")
        node.memory.rdma = None
        await is_registered_as("tcp")
        node.memory.rdma = record
        await is_registered_as("rdma")
        await until(lambda: node.remarks.count("the device came or went") == 2)

    run(story)


def test_a_planned_region_is_backed_and_reported() -> None:
    async def story(made: World) -> None:
        a, b = await made.start("a"), await made.start("b")
        await made.ask(made.questions.plan_region("scratch", 8 * MIB))

        region = await made.ask(made.questions.ready_region("scratch"))
        assert region.state == "ready"
        assert sum(a.memory.held.values()) == sum(b.memory.held.values()) == 4 * MIB

    run(story)


def test_a_lender_without_memory_fails_the_region_with_its_reason() -> None:
    async def story(made: World) -> None:
        def fill(memory: FakeMemory) -> None:
            memory.full = True

        node = await made.start("a", prepare=fill)
        await made.ask(made.questions.plan_region("scratch", 8 * MIB))

        with pytest.raises(RegionNotReady, match="the machine has no memory left"):
            await made.ask(made.questions.ready_region("scratch"))
        assert any("cannot hold extent 0 of scratch" in remark for remark in node.remarks)

    run(story)


def test_attaching_waits_for_the_fence_and_not_for_anothers_reservation() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        await made.ask(made.questions.plan_region("quick", 2 * MIB))
        first = await made.ask(made.questions.attach("quick", "exclusive", "test"))
        await made.ask(made.questions.detach("quick", first.attachment_id))
        node.memory.gate.clear()
        await made.ask(made.questions.plan_region("slow", 2 * MIB))

        second = await made.ask(made.questions.attach("quick", "exclusive", "test"))

        assert second.generation > first.generation
        assert ("raise", second.generation) in node.memory.steps
        slow = await made.ask(made.questions.region("slow"))
        assert slow.state == "planned"
        node.memory.gate.set()

    run(story)


def test_a_deleted_region_gives_its_memory_back() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        await made.ask(made.questions.plan_region("scratch", 8 * MIB))
        await made.ask(made.questions.ready_region("scratch"))

        await made.ask(made.questions.delete_region("scratch"))

        await until(lambda: node.memory.held == {})
        await settled(lambda: made.ask(made.questions.regions()), lambda listed: listed.free_bytes == 64 * MIB)

    run(story)


def test_a_late_joiner_is_learned_and_measured_by_those_that_were_there() -> None:
    async def story(made: World) -> None:
        a = await made.start("a")
        b = await made.start("b")

        await until(lambda: ("127.0.0.1", b.memory.port) in a.memory.measured)
        await until(lambda: ("127.0.0.1", a.memory.port) in b.memory.measured)
        assert ("127.0.0.1", a.memory.port) not in a.memory.measured

    run(story)


def test_a_slow_peer_is_a_remark_and_never_an_error() -> None:
    async def story(made: World) -> None:
        def far(memory: FakeMemory) -> None:
            memory.distance = PeerDistance(rtt_us=900.0, tier="slow")

        a = await made.start("a", prepare=far)
        await made.start("b")

        await until(lambda: any("node b is 900 us away" in remark for remark in a.remarks))
        assert not a.task.done()

    run(story)


def test_a_node_serves_on_while_the_coordinator_is_away_and_says_so_once() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        made.wire.cut()
        await until(lambda: len(node.remarks) == 1)
        await asyncio.sleep(0.5)  # Long enough for several attempts, none of which is another remark.
        made.wire.mend()
        await until(lambda: len(node.remarks) == 2)

        assert (
            node.remarks
            == [
                "the connection ended; trying again until it answers",
                "the coordinator answers again",
            ]
            or "no coordinator answers" in node.remarks[0]
        )
        assert not node.memory.closed

    run(story)


def test_a_node_that_was_removed_joins_again_and_holds_nothing_of_before() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        await made.ask(made.questions.plan_region("scratch", 2 * MIB))
        await made.ask(made.questions.ready_region("scratch"))

        await made.ask(made.questions.leave("a"))

        await until(lambda: node.memory.held == {})
        listed = await settled(lambda: made.ask(made.questions.endpoints()), lambda found: "a" in found.endpoints)
        assert listed.endpoints["a"].tcp_port == node.memory.port
        assert "node a was removed from the cluster; joining again" in node.remarks

    run(story)


def test_a_destroyed_cluster_is_waited_for_and_not_founded_again() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        await made.ask(destroy(made))
        await until(lambda: any("the cluster was destroyed" in remark for remark in node.remarks))

        with pytest.raises(ClusterNotFound):
            await made.ask(made.questions.cluster())
        await made.ask(made.questions.found("again"))
        await settled(lambda: made.ask(made.questions.cluster()), lambda cluster: cluster.nodes == 1)
        await until(lambda: "the cluster is there again, and this node in it" in node.remarks)

    run(story)


def test_another_cluster_behind_the_same_url_is_joined_with_a_new_life() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        other = await found_coordinator(seed=8)
        try:
            made.wire.cut()
            made.wire.app = other.app
            made.wire.mend()
            await made.ask(made.questions.found("other"))

            await until(lambda: len(node.memories) == 2)
            assert node.memories[0].closed
            await settled(lambda: made.ask(made.questions.cluster()), lambda cluster: cluster.active_nodes == 1)
            await made.end()
        finally:
            await other.stop()

    run(story)


def test_a_second_process_of_a_running_nodes_name_ends_with_a_sentence_and_the_first_goes_on() -> None:
    async def story(made: World) -> None:
        first = await made.start("a")

        with pytest.raises(IncarnationRetired, match="--name"):
            await made.start("a")

        assert not first.task.done()
        assert not first.memory.closed

    run(story)


def test_a_new_life_of_a_node_loses_what_the_last_one_held() -> None:
    async def story(made: World) -> None:
        first = await made.start("a")
        await made.ask(made.questions.plan_region("scratch", 2 * MIB))
        await made.ask(made.questions.ready_region("scratch"))
        first.task.cancel()
        await asyncio.wait((first.task,))
        made.nodes.remove(first)

        second = await made.start("a")

        region = await made.ask(made.questions.region("scratch"))
        assert (region.state, region.lost_extents) == ("damaged", [0])
        assert second.memory.held == {}

    run(story)


def test_a_node_that_is_stopped_leaves_and_says_which_regions_lose_extents() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        await made.ask(made.questions.plan_region("scratch", 2 * MIB))
        await made.ask(made.questions.ready_region("scratch"))

        node.stop.set()
        await asyncio.wait_for(node.task, DEADLINE_S)

        assert node.remarks == ["node a leaves; regions that lose extents: scratch (1)"]
        assert node.memory.closed
        cluster = await made.ask(made.questions.cluster())
        assert cluster.nodes == 0

    run(story)


def test_a_node_that_is_stopped_while_the_coordinator_is_away_ends_all_the_same() -> None:
    async def story(made: World) -> None:
        node = await made.start("a")
        made.wire.cut()
        await until(lambda: len(node.remarks) == 1)

        node.stop.set()
        await asyncio.wait_for(node.task, DEADLINE_S)

        assert "leaving without a goodbye" in node.remarks[-1]
        assert node.memory.closed

    run(story)


def test_a_node_that_is_stopped_before_it_ever_reached_a_coordinator_ends() -> None:
    async def story(made: World) -> None:
        made.wire.cut()
        node = made.begin("a")
        await until(lambda: len(node.remarks) == 1)

        node.stop.set()
        await asyncio.wait_for(node.task, DEADLINE_S)

        assert node.announced == []

    run(story)


def test_a_new_life_that_lends_less_is_planned_on_for_less() -> None:
    async def story(made: World) -> None:
        generous = await made.start("a", lend_mib=64)
        generous.task.cancel()
        await asyncio.wait((generous.task,))
        made.nodes.remove(generous)
        await made.start("a", lend_mib=4)

        with pytest.raises(CapacityExceeded) as refused:
            await made.ask(made.questions.plan_region("scratch", 32 * MIB))
        assert refused.value.free_bytes == 4 * MIB

    run(story)


def test_how_far_the_peers_are_is_for_everybody_to_see() -> None:
    async def story(made: World) -> None:
        await made.start("a")
        b = await made.start("b")
        await until(lambda: bool(b.memory.measured))
        await made.ask(made.questions.plan_region("scratch", 4 * MIB))  # News, so that the next beat is sent now.

        cluster = await settled(
            lambda: made.ask(made.questions.cluster()), lambda seen: all(member.peers for member in seen.members)
        )
        [peer] = cluster.members[1].peers
        assert (peer.node_id, peer.transport, peer.rtt_us, peer.tier) == ("a", "tcp", 30.0, "fast")

    run(story)


def destroy(made: World) -> Flow[Any]:
    """Destroys the cluster, as the seed's route does."""
    call = Call(operation="destroy_cluster", reply=ClusterDestroyedBody)
    return perform(call, time.monotonic() + DEADLINE_S)


def test_pauses_between_attempts_grow_to_a_bound_and_no_two_nodes_keep_step() -> None:
    async def never(*_: object) -> Any:
        raise AssertionError("nobody comes in here")

    async def pauses(chance: int) -> list[float]:
        slept: list[float] = []

        class Recording(AsyncSystemClock):
            async def sleep(self, duration_s: float) -> None:
                slept.append(duration_s)

        node = Node(
            node_settings("a"),
            token=None,
            http=SimpleNamespace(send=never),
            listen=never,
            clock=Recording(),
            chance=random.Random(chance),
            outlet=Outlet(announce=[].append, remark=[].append),
        )
        for _ in range(12):
            await node._rest(Unreachable("nobody answers"))
        return slept

    first, other = asyncio.run(pauses(1)), asyncio.run(pauses(2))
    for attempt, pause_s in enumerate(first):
        whole_s = min(0.1 * 2**attempt, 5.0)
        assert whole_s / 2 <= pause_s <= whole_s, f"attempt {attempt}"
    assert not set(first) & set(other), "a coordinator that comes back is not met by everybody at once"
