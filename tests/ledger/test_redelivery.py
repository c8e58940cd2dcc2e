"""What a layer gives twice, late or out of turn: nothing that was removed comes back by it. In the original it did."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.ledger.stages import PUBLISHER, STAGES, open_stage
from tests.worlds import World, node, replay
from weft.core.replay import follow
from weft.core.state import state_digest
from weft.ledger.envelope import Kind, wrap
from weft.ledger.rebuild import Target, rebuild_from_layers
from weft.model.batch import SealedBatch
from weft.model.commands import RemoveNode
from weft.model.errors import JournalDamaged
from weft.model.ids import NodeId


def came_and_went() -> World:
    world = World.founded()
    for number in range(6):
        world.do(node(f"n{number}"))
    world.do(RemoveNode(node_id=NodeId("n2")))
    world.do(node("last"))
    return world


WORLD = came_and_went()


def envelope(sealed: SealedBatch) -> bytes:
    return wrap(PUBLISHER, sealed.batch.cluster_id, Kind.BATCH, sealed.batch.position, sealed.body)


@pytest.mark.parametrize("position", range(1, len(WORLD.log) + 1))
def test_an_old_batch_that_is_delivered_again_changes_nothing_and_resurrects_nobody(position: int) -> None:
    state = replay(WORLD.log)
    before = state_digest(state)
    with pytest.raises(JournalDamaged):
        follow(state, WORLD.log[position - 1])
    assert state_digest(state) == before
    assert "n2" not in [one.node_id for one in state.nodes.values()]


@pytest.mark.parametrize("name", STAGES)
def test_the_state_comes_back_from_each_layer_alone_whatever_came_twice_and_out_of_turn(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with open_stage(name, tmp_path) as stage:
            blobs = [envelope(sealed) for sealed in WORLD.log]
            mixed = [*blobs, *blobs[:4]]
            random.Random(name).shuffle(mixed)
            for blob in mixed:
                await stage.layer.put(blob)
            target = Target()
            await rebuild_from_layers([stage.layer], (PUBLISHER.public,), target, lambda _: None)
            assert state_digest(target.state) == state_digest(WORLD.state)
            assert "n2" not in [one.node_id for one in target.state.nodes.values()]

    asyncio.run(story())
