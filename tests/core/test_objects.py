"""Objects in the books: the first registration wins, and a copy is there when its holder says so."""

import pytest

from tests.worlds import World, node, replay
from weft.core.object import existing_object
from weft.core.state import state_digest
from weft.model.commands import (
    AdmitBeat,
    DeleteObject,
    DestroyCluster,
    GiveUpNode,
    MarkHealed,
    MarkMissing,
    RegisterNode,
    RegisterObject,
    RemoveNode,
    ReportReplicas,
)
from weft.model.errors import InvalidField, NodeNotFound, ObjectBeingDeleted, ObjectNotFound
from weft.model.events import ObjectDeleted, ObjectRegistered, ReplicaAdded, ReplicaRemoved
from weft.model.ids import Incarnation, NodeId
from weft.model.object import ObjectHash, StoredObject, chunk_count, chunk_size, is_content_hash, parse_object_hash
from weft.model.policy import CHUNK_BYTES, LEFT_NODES_MAX, LedgerPolicy

A, B = NodeId("a"), NodeId("b")
ONE, OTHER = ObjectHash("1" * 64), ObjectHash("2" * 64)
LIFE = Incarnation(1)


def world(*names: str) -> World:
    """Nodes that beat, and one object of 100 bytes that is wanted three times."""
    made = World.founded(*(node(name) for name in names))
    for name in names:
        made.do(AdmitBeat(node_id=NodeId(name), incarnation=LIFE))
    made.do(RegisterObject(object_hash=ONE, size_bytes=100, replicas_wanted=3))
    return made


def the_object(made: World, object_hash: ObjectHash = ONE) -> StoredObject:
    found = made.state.objects.get(object_hash)
    assert found is not None
    return found


def test_object_registry_a_second_registration_keeps_the_first_size() -> None:
    made = world()
    assert made.do(RegisterObject(object_hash=ONE, size_bytes=7, replicas_wanted=1)) == ()
    assert (the_object(made).size_bytes, the_object(made).replicas_wanted) == (100, 3)


def test_a_registered_object_has_no_copy_until_a_holder_says_so() -> None:
    made = world("a")
    assert the_object(made).replicas == ()
    (event,) = made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    assert event == ReplicaAdded(object_hash=ONE, node_id=A)
    assert the_object(made).replicas == (A,)


def test_a_node_holds_an_object_once_however_often_it_says_so() -> None:
    made = world("a")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE, ONE)))
    assert made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,))) == ()
    assert the_object(made).replicas == (A,)


def test_replicas_are_kept_in_order_of_id_whoever_came_first() -> None:
    one, other = world("a", "b"), world("a", "b")
    for made, order in ((one, (A, B)), (other, (B, A))):
        for node_id in order:
            made.do(ReportReplicas(node_id=node_id, incarnation=LIFE, held=(ONE,)))
    assert the_object(one) == the_object(other)


def test_replica_missing_lowers_the_count_and_healed_raises_it() -> None:
    made = world("a")
    made.do(MarkHealed(object_hash=ONE, node_id=A))
    assert the_object(made).replicas == (A,)
    (event,) = made.do(MarkMissing(object_hash=ONE, node_id=A))
    assert event == ReplicaRemoved(object_hash=ONE, node_id=A, reason="marked")
    assert the_object(made).replicas == ()


@pytest.mark.parametrize(
    ("object_hash", "node_id"), [(OTHER, A), (ONE, A), (ONE, NodeId("nobody"))], ids=["object", "copy", "node"]
)
def test_marking_missing_what_is_not_in_the_books_changes_nothing(object_hash: ObjectHash, node_id: NodeId) -> None:
    assert world("a").do(MarkMissing(object_hash=object_hash, node_id=node_id)) == ()


def test_marking_an_unknown_object_healed_does_not_create_it() -> None:
    made = world("a")
    with pytest.raises(ObjectNotFound):
        made.do(MarkHealed(object_hash=OTHER, node_id=A))
    assert OTHER not in made.state.objects


def test_a_copy_on_a_node_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NodeNotFound):
        world("a").do(MarkHealed(object_hash=ONE, node_id=NodeId("nobody")))


def test_a_removed_node_takes_its_copies_along_so_that_they_are_not_counted() -> None:
    made = world("a", "b")
    for node_id in (A, B):
        made.do(ReportReplicas(node_id=node_id, incarnation=LIFE, held=(ONE,)))
    made.do(RemoveNode(node_id=A))
    assert the_object(made).replicas == (B,)


def test_a_node_that_joins_again_brings_no_copy_back_before_it_says_so() -> None:
    made = world("a")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    made.do(RemoveNode(node_id=A))
    rejoin: RegisterNode = node("a")
    made.do(rejoin)
    assert the_object(made).replicas == ()
    assert made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,))) == (), "this life has not beaten yet"


def test_an_offline_node_keeps_its_copies_in_the_books() -> None:
    made = world("a")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    made.do(GiveUpNode(node_id=A, incarnation=LIFE))
    assert the_object(made).replicas == (A,)


def test_a_new_life_of_a_node_keeps_its_copies_since_they_are_on_its_disk() -> None:
    made = world("a")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    made.do(AdmitBeat(node_id=A, incarnation=Incarnation(2)))
    assert the_object(made).replicas == (A,)


def test_a_report_of_an_earlier_life_is_no_report() -> None:
    made = world("a")
    made.do(AdmitBeat(node_id=A, incarnation=Incarnation(2)))
    assert made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,))) == ()


def test_a_report_of_an_object_nobody_registered_is_passed_over() -> None:
    assert world("a").do(ReportReplicas(node_id=A, incarnation=LIFE, held=(OTHER,), gone=((OTHER, "missing"),))) == ()


@pytest.mark.parametrize("reason", ["missing", "corrupt", "dropped"])
def test_a_copy_its_holder_reports_gone_is_gone_for_that_reason(reason: str) -> None:
    made = world("a")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    (event,) = made.do(ReportReplicas(node_id=A, incarnation=LIFE, gone=((ONE, reason),)))
    assert event == ReplicaRemoved(object_hash=ONE, node_id=A, reason=reason)


def test_destroying_the_cluster_forgets_its_objects() -> None:
    made = world("a")
    made.do(DestroyCluster())
    assert len(made.state.objects) == 0


def test_objects_replay_to_the_same_bytes() -> None:
    made = world("a", "b")
    made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(ONE,)))
    made.do(MarkHealed(object_hash=ONE, node_id=B))
    made.do(RemoveNode(node_id=A))
    assert state_digest(replay(made.log)) == state_digest(made.state)


def test_a_registration_is_one_event_with_everything_in_it() -> None:
    made = World.founded()
    (event,) = made.do(RegisterObject(object_hash=ONE, size_bytes=0, replicas_wanted=2))
    assert event == ObjectRegistered(object_hash=ONE, size_bytes=0, replicas_wanted=2, at_ms=made.now_ms)


@pytest.mark.parametrize(
    ("written", "kept"),
    [("AB" * 32, "ab" * 32), ("abc123def456...", "abc123def456..."), ("QmXyz", "QmXyz"), ("AB" * 31, "AB" * 31)],
)
def test_the_case_of_a_sha256_does_not_matter_and_a_callers_own_name_is_left_alone(written: str, kept: str) -> None:
    assert parse_object_hash(written) == kept


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 129, "a/b", "ü"])
def test_what_cannot_be_a_hash_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidField):
        parse_object_hash(wrong)


def test_only_a_sha256_can_be_verified() -> None:
    assert is_content_hash(ONE)
    assert not is_content_hash(ObjectHash("abc123def456..."))


@pytest.mark.parametrize(
    ("size_bytes", "chunks", "last"),
    [(0, 0, None), (1, 1, 1), (CHUNK_BYTES, 1, CHUNK_BYTES), (CHUNK_BYTES + 5, 2, 5)],
)
def test_an_object_is_whole_chunks_but_for_the_last(size_bytes: int, chunks: int, last: int | None) -> None:
    assert chunk_count(size_bytes) == chunks
    if last is not None:
        assert chunk_size(size_bytes, chunks - 1) == last


def held(made: World, *names: str) -> None:
    for name in names:
        made.do(ReportReplicas(node_id=NodeId(name), incarnation=LIFE, held=(ONE,)))


def let_go(made: World, name: str) -> None:
    made.do(ReportReplicas(node_id=NodeId(name), incarnation=LIFE, gone=((ONE, "dropped"),)))


def test_a_deleted_object_is_none_at_once_and_leaves_the_books_with_its_last_copy() -> None:
    made = world("a", "b")
    held(made, "a", "b")
    assert made.do(DeleteObject(object_hash=ONE)) == (ObjectDeleted(object_hash=ONE),)
    with pytest.raises(ObjectNotFound):
        existing_object(made.state, ONE)
    assert the_object(made).deleting
    let_go(made, "a")
    assert the_object(made).replicas == (B,)
    let_go(made, "b")
    assert made.state.objects.get(ONE) is None
    assert state_digest(replay(made.log)) == state_digest(made.state)


def test_an_object_without_a_copy_is_out_of_the_books_as_soon_as_it_is_deleted() -> None:
    made = world("a")
    made.do(DeleteObject(object_hash=ONE))
    assert made.state.objects.get(ONE) is None
    with pytest.raises(ObjectNotFound):
        made.do(DeleteObject(object_hash=ONE))


def test_deleting_what_is_on_its_way_out_changes_nothing() -> None:
    made = world("a")
    held(made, "a")
    made.do(DeleteObject(object_hash=ONE))
    assert made.do(DeleteObject(object_hash=ONE)) == ()
    with pytest.raises(ObjectNotFound):
        made.do(MarkHealed(object_hash=ONE, node_id=A))


def test_copies_that_were_only_marked_are_waited_for_by_nobody() -> None:
    made = world("a")
    made.do(node("b"))
    for name in (A, B):
        made.do(MarkHealed(object_hash=ONE, node_id=name))
    made.do(DeleteObject(object_hash=ONE))
    assert the_object(made).replicas == (A,), "b never said that it lives, so it keeps no object"
    made.do(MarkMissing(object_hash=ONE, node_id=A))
    assert made.state.objects.get(ONE) is None, "and somebody may say of any holder that it has none"


def come_back(made: World, name: str) -> None:
    made.do(node(name))
    made.do(AdmitBeat(node_id=NodeId(name), incarnation=LIFE))


def test_a_node_that_left_is_not_waited_for_to_let_go_and_is_told_when_it_is_back() -> None:
    made = world("a")
    held(made, "a")
    made.do(DeleteObject(object_hash=ONE))
    made.do(RemoveNode(node_id=A))
    found = the_object(made)
    assert (found.deleting, found.replicas, found.left) == (True, (), (A,))
    come_back(made, "a")
    held(made, "a")
    assert the_object(made).replicas == (A,), "and so a plan has it let go"
    let_go(made, "a")
    assert made.state.objects.get(ONE) is None
    assert state_digest(replay(made.log)) == state_digest(made.state)


def test_an_object_deleted_after_a_holder_left_is_remembered_for_that_holder() -> None:
    made = world("a", "b")
    held(made, "a", "b")
    made.do(RemoveNode(node_id=B))
    assert (the_object(made).replicas, the_object(made).left) == ((A,), (B,))
    made.do(DeleteObject(object_hash=ONE))
    let_go(made, "a")
    assert (the_object(made).replicas, the_object(made).left) == ((), (B,))
    made.do(RegisterObject(object_hash=ONE, size_bytes=100, replicas_wanted=2))
    assert (the_object(made).deleting, the_object(made).left) == (False, (B,)), "put anew, and waited for nobody"


def test_a_node_that_is_back_without_its_copy_is_remembered_no_more() -> None:
    made = world("a", "b")
    held(made, "a", "b")
    made.do(RemoveNode(node_id=B))
    made.do(DeleteObject(object_hash=ONE))
    let_go(made, "a")
    come_back(made, "b")
    made.do(ReportReplicas(node_id=B, incarnation=LIFE, gone=((ONE, "missing"),)))
    assert made.state.objects.get(ONE) is None


def test_somebody_may_say_that_a_node_which_left_has_no_copy() -> None:
    made = world("a")
    held(made, "a")
    made.do(DeleteObject(object_hash=ONE))
    made.do(RemoveNode(node_id=A))
    made.do(MarkMissing(object_hash=ONE, node_id=A))
    assert made.state.objects.get(ONE) is None


def test_so_many_that_left_are_remembered_and_the_oldest_forgotten_first() -> None:
    names = [f"n{index:02}" for index in range(LEFT_NODES_MAX + 1)]
    made = world(*names)
    for name in names:
        held(made, name)
        made.do(RemoveNode(node_id=NodeId(name)))
    assert the_object(made).left == tuple(names[1:])


def test_so_many_deletions_wait_for_nodes_that_left_and_the_oldest_is_forgotten_first() -> None:
    made = World.founded(node("a"), policy=LedgerPolicy(deleted_awaited_max=2))
    made.do(AdmitBeat(node_id=A, incarnation=LIFE))
    names = [ObjectHash(f"{index:064x}") for index in range(4)]
    for name in reversed(names):
        made.do(RegisterObject(object_hash=name, size_bytes=1, replicas_wanted=1))
        made.do(ReportReplicas(node_id=A, incarnation=LIFE, held=(name,)))
        made.now_ms += 1
    for name in names[1:]:
        made.do(DeleteObject(object_hash=name))
    made.do(RemoveNode(node_id=A))
    assert sorted(one.object_hash for one in made.state.objects.values()) == names[:3], (
        "the one that is not deleted stays, and the two newest deletions"
    )
    assert state_digest(replay(made.log)) == state_digest(made.state)


def test_a_copy_that_arrives_after_its_object_was_deleted_is_one_more_to_let_go_of() -> None:
    made = world("a", "b")
    held(made, "a")
    made.do(DeleteObject(object_hash=ONE))
    held(made, "b")
    assert the_object(made).replicas == (A, B)


def test_a_hash_is_free_once_the_holders_that_are_there_have_let_go() -> None:
    made = world("a", "b")
    held(made, "a", "b")
    made.do(DeleteObject(object_hash=ONE))
    again = RegisterObject(object_hash=ONE, size_bytes=100, replicas_wanted=2)
    with pytest.raises(ObjectBeingDeleted) as refusal:
        made.do(again)
    assert (refusal.value.nodes, refusal.value.temporary) == ([A, B], True)
    let_go(made, "a")
    made.do(GiveUpNode(node_id=B, incarnation=LIFE))
    made.do(again)
    found = the_object(made)
    assert (found.deleting, found.replicas, found.replicas_wanted) == (False, (B,), 2), "b has the same bytes still"
    assert state_digest(replay(made.log)) == state_digest(made.state)
