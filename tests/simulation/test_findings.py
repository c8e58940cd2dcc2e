"""What lives of clusters have found in the product, told by itself."""

import asyncio

import pytest

from tests.worlds import Lender, coordinator_door
from weft.coordinator.app import Limits
from weft.ledger import MemoryJournal
from weft.model.batch import SealedBatch
from weft.model.ids import NodeId, Position
from weft.model.node import NodeStatus
from weft.testing import Cluster
from weft.testing.cluster import question
from weft.testing.host import PLACE
from weft.testing.invariants import Judge
from weft.testing.keepers import WitnessMachine


@pytest.mark.parametrize("cloud", [False, True])
def test_a_node_that_is_coming_in_while_the_cluster_is_destroyed_comes_in_all_the_same(cloud: bool) -> None:
    for seed in range(6):
        cluster = Cluster(seed, agents=2, cloud=cloud)
        cluster.host.disk.sync_s = 0.05 * (seed + 1)
        cluster.start()
        program = cluster.program("p")
        for _ in range(3):
            cluster.loop.run_until(lambda: _is_founded(cluster), 5)  # noqa: B023
            program.spawn(cluster.ask(program, question("destroy_cluster", patience_s=0.5)))
            cluster.loop.run_for(0.01)
        cluster.loop.run_for(2)
        if not _is_founded(cluster):
            cluster.do(program, cluster.ask(program, question("found_cluster", name="weft")))
        online = cluster.loop.run_until(lambda: len(cluster.online()) == 2, 60)  # noqa: B023
        failures = [failure for machine in cluster.machines.values() for failure in machine.failures]
        cluster.close()
        assert not failures
        assert online


def _is_founded(cluster: Cluster) -> bool:
    state = cluster.host.state
    return state is not None and state.cluster is not None


def test_a_node_that_dies_together_with_the_writer_is_missed_by_the_next_one() -> None:
    cluster = Cluster(1, agents=4, paired=True)
    cluster.start()
    assert cluster.loop.run_until(lambda: len(cluster.online()) == 4, 30)
    cluster.host.kill()
    cluster.machines["n1"].kill()
    missed = cluster.loop.run_until(lambda: _status(cluster, "n1") is NodeStatus.OFFLINE, 90)
    cluster.close()
    assert missed


def test_a_node_whose_first_beat_no_layer_took_is_missed_all_the_same() -> None:
    cluster = Cluster(1, agents=3, layered=True)
    cluster.start()
    joined = cluster.loop.run_until(lambda: _incarnation(cluster, "n1") is not None, 30)
    for machine in _witnesses(cluster):
        machine.sync_s = 60.0
    cluster.machines["n1"].kill()
    cluster.loop.run_for(30)
    for machine in _witnesses(cluster):
        machine.mend()
    missed = cluster.loop.run_until(lambda: _status(cluster, "n1") is NodeStatus.OFFLINE, 90)
    cluster.close()
    assert joined
    assert missed


def test_a_node_that_is_heard_while_a_sweep_waits_for_a_layer_is_not_given_up() -> None:
    # A sweep so rare that both are past their time at the same one.
    cluster = Cluster(1, agents=8, layered=True, limits=Limits(sweep_ms=10_000))
    cluster.start()
    assert cluster.loop.run_until(lambda: len(cluster.online()) == 8, 30)
    silent = {"n1", "n2"}
    for name in silent:
        cluster.network.cut(name, PLACE)
    cluster.loop.run_for(28)
    for machine in _witnesses(cluster):
        machine.sync_s = 4.0
    # The sweep gives up one of them, and waits until a layer has that.
    assert cluster.loop.run_until(lambda: bool(_offline(cluster) & silent), 20)
    assert cluster.host.coordinator is not None
    (heard,) = silent - _offline(cluster)
    cluster.network.heal(heard, PLACE)
    cluster.host.coordinator._beats.notice(NodeId(heard))
    cluster.loop.run_for(20)
    lost = [row for row in cluster.host.rows() if b"NodeLost" in row.body and heard.encode() in row.body]
    cluster.close()
    assert not lost


def test_a_batch_that_too_few_validators_keep_is_put_again_by_the_next_life_before_anybody_rests_on_it() -> None:
    cluster = Cluster(1, agents=2, layered=True)
    cluster.start()
    places, judge = cluster.places, Judge(cluster)
    assert places is not None
    assert cluster.loop.run_until(lambda: len(cluster.online()) == 2, 30)
    cluster.loop.run_for(3)
    places.primary.kill()
    places.emergency.kill()
    for validator in places.validators[1:]:
        validator.sync_s = 60.0
    for name in ("n0", "n1"):
        cluster.machines[name].kill()
        cluster.machines[name].start()
    cluster.loop.run_for(12)
    for validator in places.validators[1:]:
        validator.kill()
        validator.mend()
        validator.start()
    judge.look()
    commitments = [judge.commitment_of(batch.position) for batch in judge.batches]
    few = [one for one in commitments if places.validators[0].keeps(one) and not places.keeps(one)]
    cluster.host.kill()
    cluster.host.start()
    cluster.loop.run_for(20)
    judge.look()
    coordinator = cluster.host.coordinator
    assert coordinator is not None
    assert coordinator.availability is not None
    shipped = coordinator.availability.shipper.shipped
    commitments = [judge.commitment_of(batch.position) for batch in judge.batches]
    kept = [places.keeps(one) for one in commitments[:shipped]]
    cluster.close()
    assert few
    assert all(kept)


def test_nodes_do_not_storm_a_writer_that_reigns_again_after_another_did() -> None:
    cluster = Cluster(1, agents=4, paired=True)
    cluster.start()
    assert cluster.loop.run_until(lambda: len(cluster.online()) == 4, 30)
    first = cluster.host
    for _ in range(2):
        writer = cluster.host
        assert writer.process is not None
        writer.process.pause()
        assert cluster.loop.run_until(lambda: cluster.host is not writer, 30)  # noqa: B023
        writer.process.resume()
        cluster.loop.run_for(15)
    before = cluster.observer.beats_heard
    cluster.loop.run_for(10)
    beats = cluster.observer.beats_heard - before
    reigns_again = cluster.host is first
    cluster.close()
    assert reigns_again
    assert beats < 100, "a beat of each node every three seconds, or thereabouts"


def _offline(cluster: Cluster) -> set[str]:
    return {name for name in cluster.machines if _status(cluster, name) is NodeStatus.OFFLINE}


def _status(cluster: Cluster, name: str) -> NodeStatus | None:
    node = cluster.host.state.nodes.get(NodeId(name)) if cluster.host.state is not None else None
    return node.status if node is not None else None


def _incarnation(cluster: Cluster, name: str) -> int | None:
    node = cluster.host.state.nodes.get(NodeId(name)) if cluster.host.state is not None else None
    return node.incarnation if node is not None else None


def _witnesses(cluster: Cluster) -> list[WitnessMachine]:
    assert cluster.places is not None
    return [machine for machine in cluster.places.machines if isinstance(machine, WitnessMachine)]


class GatedJournal(MemoryJournal):
    gate: asyncio.Event | None = None

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await super().append(sealed, expected_position)


def test_a_node_that_is_removed_while_its_beat_is_decided_leaves_no_engines_behind() -> None:
    async def story() -> None:
        journal = GatedJournal()
        async with coordinator_door(journal) as door:
            lender = Lender(door, "n0")
            await door.found(lender)
            await door.ok("POST", "/regions", {"name": "r", "size_bytes": 4096})
            await lender.beat()
            journal.gate = asyncio.Event()
            removing = asyncio.ensure_future(door("DELETE", "/nodes/n0"))
            await door.settle()
            body = lender.body()
            body["observations"]["pools"] = [{"pool_id": "p0", "ready": True, "slots_free": 1, "slots_total": 1}]
            beating = asyncio.ensure_future(door("POST", "/nodes/n0/beat", body))
            await door.settle()
            journal.gate.set()
            assert (await removing).status_code == 200
            assert (await beating).status_code == 404
            assert dict(door.coordinator._observations.pools) == {}

    asyncio.run(story())
