"""Snapshots: a state that was restored is the one that lived."""

import msgspec
import pytest

from tests.worlds import World, node, replay
from weft.core.replay import follow
from weft.core.snapshot import Snapshot, capture, describe, parse_snapshot, restore, snapshot_bytes
from weft.core.state import State, state_digest
from weft.model.commands import AdmitBeat, DrainNode, PlanRegion, RegisterEndpoint
from weft.model.endpoint import TcpHalf
from weft.model.errors import SnapshotDamaged
from weft.model.ids import Incarnation, NodeId, Position, RegionName


def lived() -> World:
    """A world with something in most tables."""
    world = World.founded(*(node(str(number), lend_stripes=8) for number in range(4)))
    for number in range(4):
        world.do(AdmitBeat(node_id=NodeId(str(number)), incarnation=Incarnation(number + 1)))
    world.do(RegisterEndpoint(node_id=NodeId("1"), half=TcpHalf(address="10.0.0.1", port=50051)))
    world.do(PlanRegion(name=RegionName("scratch"), size_bytes=4 << 21))
    world.do(DrainNode(node_id=NodeId("2")))
    return world


def tables(state: State) -> dict[str, object]:
    rows = {name: getattr(state, name) for name in State.__slots__}
    return {name: dict(table.rows) if hasattr(table, "rows") else table for name, table in rows.items()}


def test_a_restored_state_is_the_one_that_lived() -> None:
    world = lived()
    snapshot = parse_snapshot(snapshot_bytes(describe(world.state)), world.state.marks.position)
    restored = restore(snapshot)
    assert tables(restored) == tables(world.state)
    assert state_digest(restored) == state_digest(world.state) == snapshot.state_digest


@pytest.mark.parametrize("cut", range(1, len(lived().log)))
def test_a_snapshot_and_the_log_after_it_give_what_the_whole_log_gives(cut: int) -> None:
    log = lived().log
    state = restore(describe(replay(log[:cut])))
    for sealed in log[cut:]:
        state.merge(follow(state, sealed))
    assert tables(state) == tables(replay(log))


def test_equal_states_are_equal_bytes_however_they_came_to_be() -> None:
    world = lived()
    again = restore(describe(replay(world.log)))
    assert snapshot_bytes(describe(again)) == snapshot_bytes(describe(world.state))


def test_what_is_merged_later_does_not_reach_what_was_captured() -> None:
    world = lived()
    before = snapshot_bytes(describe(world.state))
    held = capture(world.state)
    world.do(node("new"))
    assert snapshot_bytes(describe(held)) == before


def test_a_snapshot_whose_rows_were_changed_is_refused() -> None:
    snapshot = describe(lived().state)
    forged = msgspec.structs.replace(snapshot, nodes=snapshot.nodes[1:])
    with pytest.raises(SnapshotDamaged, match="digest"):
        restore(forged)


@pytest.mark.parametrize(
    "body", [b"", b"\x80", b"not msgpack", b"\x81\xa1\xff\x00", snapshot_bytes(describe(lived().state))[:-1]]
)
def test_bytes_that_are_no_snapshot_are_refused(body: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        parse_snapshot(body, Position(3))


def test_every_table_of_the_state_is_in_a_snapshot() -> None:
    derived = {"region_ids", "marks"}
    assert set(State.__slots__) - derived <= set(Snapshot.__struct_fields__)
