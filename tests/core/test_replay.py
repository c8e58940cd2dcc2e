"""Replay from nothing gives, byte for byte, the state that living through it gave; and only a true log is followed."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worlds import STRIPE, World, node, replay
from weft.core.dispatch import APPLICATIONS, DECISIONS
from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.model.attachment import Closing, Mode
from weft.model.batch import SealedBatch, seal
from weft.model.canonical import Digest
from weft.model.commands import (
    AdmitBeat,
    CloseAttachment,
    Command,
    ConfirmRegion,
    DeleteRegion,
    DestroyCluster,
    FailRegion,
    FinishRegion,
    FoundCluster,
    GiveUpNode,
    LoseExtents,
    MarkHealed,
    MarkMissing,
    OpenAttachment,
    PlanRegion,
    RegisterEndpoint,
    RegisterObject,
    RemoveNode,
    ReportReplicas,
    SealRegion,
)
from weft.model.endpoint import RdmaHalf, TcpHalf
from weft.model.errors import JournalDamaged, Rejected
from weft.model.events import Event
from weft.model.ids import AttachmentId, Incarnation, NodeId, RegionId, RegionName, Term
from weft.model.object import ObjectHash
from weft.model.region import RegionState

NODES = [NodeId(name) for name in "abc"]
NAMES = [RegionName(name) for name in "rs"]
nodes, names = st.sampled_from(NODES), st.sampled_from(NAMES)
lives = st.integers(1, 3).map(Incarnation)
hashes = st.sampled_from([ObjectHash("1" * 64), ObjectHash("2" * 64)])


def test_every_command_and_every_event_has_its_rule() -> None:
    assert set(DECISIONS) == set(get_args(Command))
    assert set(APPLICATIONS) == set(get_args(Event))


@st.composite
def commands(draw: st.DrawFn, world: World) -> Command:
    """A command that may or may not make sense in this world: half of what it names exists."""
    region_ids = [*world.state.regions.keys(), RegionId("r" + "f" * 16)]
    attachment_ids = [*world.state.attachments.keys(), AttachmentId("a" + "f" * 16)]
    region_id = draw(st.sampled_from(region_ids))
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(node, nodes, st.integers(0, 6)),
        st.builds(node, nodes, st.integers(0, 6)),
        st.builds(AdmitBeat, node_id=nodes, incarnation=lives),
        st.builds(AdmitBeat, node_id=nodes, incarnation=lives),
        st.builds(GiveUpNode, node_id=nodes, incarnation=lives),
        st.builds(RemoveNode, node_id=nodes),
        st.builds(RegisterEndpoint, node_id=nodes, half=st.sampled_from([_TCP, _RDMA])),
        st.builds(
            PlanRegion, name=names, size_bytes=st.integers(1, 8 * STRIPE), lenders_max=st.sampled_from([None, 1, 2])
        ),
        st.builds(PlanRegion, name=names, size_bytes=st.integers(1, 8 * STRIPE)),
        st.builds(ConfirmRegion, region_id=st.just(region_id)),
        st.builds(ConfirmRegion, region_id=st.just(region_id)),
        st.builds(FailRegion, region_id=st.just(region_id), error=st.just("x")),
        st.builds(
            LoseExtents,
            region_id=st.just(region_id),
            node_id=nodes,
            incarnation=lives,
            indices=st.lists(st.integers(0, 4), max_size=3).map(tuple),
            error=st.just("x"),
        ),
        st.builds(SealRegion, name=names),
        st.builds(DeleteRegion, name=names, force=st.booleans()),
        st.builds(FinishRegion, region_id=st.just(region_id), released=st.lists(nodes).map(tuple)),
        st.builds(
            OpenAttachment, region=names, mode=st.sampled_from(list(Mode)), holder=st.just("h"), takeover=st.booleans()
        ),
        st.builds(
            CloseAttachment,
            region=names,
            attachment_id=st.sampled_from(attachment_ids),
            reason=st.sampled_from(list(Closing)),
        ),
        st.builds(FoundCluster, name=st.just("c"), nodes=st.just(())),
        st.builds(RegisterObject, object_hash=hashes, size_bytes=st.just(1), replicas_wanted=st.integers(1, 3)),
        st.builds(MarkHealed, object_hash=hashes, node_id=nodes),
        st.builds(MarkMissing, object_hash=hashes, node_id=nodes),
        st.builds(
            ReportReplicas,
            node_id=nodes,
            incarnation=lives,
            held=st.lists(hashes, max_size=2).map(tuple),
            gone=st.lists(st.tuples(hashes, st.sampled_from(["missing", "corrupt"])), max_size=1).map(tuple),
        ),
    ]
    if draw(st.integers(0, 40)) == 0:
        return DestroyCluster()
    chosen: Command = draw(st.one_of(kinds))
    return chosen


_TCP = TcpHalf(address="10.0.0.1", port=1)
_RDMA = RdmaHalf(queue_pair=1, lid=2, gid=bytes(16), packet_sequence=3)


def invariant_indexes_follow_from_the_tables(state: State) -> None:
    assert {region.name: region.region_id for region in state.regions.values()} == dict(state.region_ids.items())
    for row in state.nodes.values():
        charged = 0
        for region_id in state.holdings.get(row.node_id) or ():
            region = state.regions.get(region_id)
            assert region is not None
            for extent in region.layout.extents_of(row.node_id):
                assert extent.home.incarnation == row.incarnation
                charged += extent.size_bytes if extent.index not in region.lost_extents else 0
        assert row.reserved_bytes == charged
        assert row.reserved_bytes <= row.lend_bytes
    assert all(node_id in state.nodes for node_id in (*state.holdings.keys(), *state.endpoints.keys()))


def invariant_a_copy_is_on_a_node_that_is_there_and_no_node_holds_two(state: State) -> None:
    for found in state.objects.values():
        assert list(found.replicas) == sorted(set(found.replicas))
        assert all(node_id in state.nodes for node_id in found.replicas)


def invariant_a_region_has_one_writer_or_is_sealed(state: State) -> None:
    listed = set()
    for region in state.regions.values():
        open_ones = [state.attachments.get(attachment_id) for attachment_id in region.attachment_ids]
        modes = [attachment.mode for attachment in open_ones if attachment is not None]
        assert len(modes) == len(region.attachment_ids)
        assert modes in ([], [Mode.EXCLUSIVE]) or (region.sealed and Mode.EXCLUSIVE not in modes)
        assert all(one is not None and region.floor <= one.generation <= region.generation for one in open_ones)
        listed |= set(region.attachment_ids)
    assert listed == set(state.attachments.keys())


def invariant_a_lost_extent_shows(state: State) -> None:
    for region in state.regions.values():
        if region.lost_extents:
            assert region.state in (RegionState.DAMAGED, RegionState.FAILED, RegionState.DELETING)
        for extent in region.layout.extents():
            row = state.nodes.get(extent.home.node_id)
            alive = row is not None and row.incarnation == extent.home.incarnation
            assert alive or extent.index in region.lost_extents


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_replay_gives_what_living_through_it_gave(data: st.DataObject) -> None:
    world = World.founded()
    floors: dict[RegionId, int] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        world.silent = frozenset(data.draw(st.sets(nodes, max_size=1)))
        batch = [data.draw(commands(world)) for _ in range(data.draw(st.integers(1, 4)))]
        for outcome in world.batch(*batch):
            assert isinstance(outcome, tuple | Rejected)
        invariant_indexes_follow_from_the_tables(world.state)
        invariant_a_region_has_one_writer_or_is_sealed(world.state)
        invariant_a_lost_extent_shows(world.state)
        invariant_a_copy_is_on_a_node_that_is_there_and_no_node_holds_two(world.state)
        for region in world.state.regions.values():
            assert region.floor >= floors.get(region.region_id, 0)
            floors[region.region_id] = region.floor
    assert state_digest(replay(world.log)) == state_digest(world.state)


def test_the_state_digest_tells_states_apart() -> None:
    assert state_digest(World.founded(node("a")).state) != state_digest(World.founded(node("b")).state)


def test_a_refused_command_leaves_no_trace() -> None:
    world = World.founded(node("a"))
    before = state_digest(world.state), len(world.log)
    world.batch(node("a"), RemoveNode(node_id=NodeId("z")))
    assert (state_digest(world.state), len(world.log)) == before


def tampered(sealed: SealedBatch, **changes: Any) -> SealedBatch:
    return seal(msgspec.structs.replace(sealed.batch, **changes))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"position": 4}, "follows position 2"),
        ({"position": 2}, "follows position 2"),
        ({"parent": Digest(bytes(32))}, "parent"),
        ({"cluster_id": bytes(16)[:-1] + b"\1"}, "another cluster"),
        ({"term": Term(0)}, "after term 1 had begun"),
        ({"publisher": "stranger"}, "where 1 is due"),
    ],
)
def test_a_batch_that_is_not_the_next_one_is_not_followed(change: dict[str, Any], complaint: str) -> None:
    world = World.founded(node("a"))
    world.do(RemoveNode(node_id=NodeId("a")))
    state = replay(world.log[:2])
    with pytest.raises(JournalDamaged, match=complaint):
        follow(state, tampered(world.log[2], **change))


@pytest.mark.parametrize("step", [-1, 1])
def test_a_gap_or_a_repeat_in_a_publisher_s_count_is_not_followed(step: int) -> None:
    world = World.founded(node("a"))
    last = world.log[1].batch
    entries = tuple(msgspec.structs.replace(entry, sequence=entry.sequence + step) for entry in last.entries)
    with pytest.raises(JournalDamaged):
        follow(replay(world.log[:1]), tampered(world.log[1], entries=entries))


def test_a_log_begins_with_whose_it_is() -> None:
    world = World.founded(node("a"))
    first = world.log[0].batch
    with pytest.raises(JournalDamaged, match="does not open"):
        follow(State(), tampered(world.log[0], entries=first.entries[1:]))
