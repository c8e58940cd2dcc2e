"""What lives of clusters have found in the product, told by itself."""

import asyncio

import pytest

from tests.worlds import Lender, coordinator_door
from weft.ledger import MemoryJournal
from weft.model.batch import SealedBatch
from weft.model.ids import Position
from weft.testing import Cluster
from weft.testing.cluster import question


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
