"""Objects: registered once, and held by whoever says that they hold them.

The first registration of a hash wins: its size and its wanted replicas stay. A copy is in the books from its holder's
own report on, never because a plan wanted it, until its holder says that it is gone, somebody marks it missing, or its
node leaves the cluster. A node that is only offline keeps its copies in the books: they come back with it.

An object that is deleted is gone to everybody at once, and its row stays until the last holder has said that its copy
is gone: so a node that is away is told when it comes back, however long that takes and whoever coordinates by then. A
node that left the cluster takes its copies off the books and its disk with it: the row remembers that it left with one
(`left`), so that it is told too if it ever comes back. What if it never does? The names of the last to leave are kept
with each object, and so many rows of deleted objects that wait for nobody else; the oldest are forgotten first. Who
registers it anew in the meantime is asked to wait for the holders that are there, since a copy on its way out must not
be taken for one that was put. Those that are offline are not waited for: what they bring back is the same bytes.
"""

import msgspec

from weft.core.moment import Moment
from weft.core.state import Draft, View
from weft.model.commands import DeleteObject, MarkHealed, MarkMissing, RegisterObject, ReportReplicas
from weft.model.errors import NodeNotFound, ObjectBeingDeleted, ObjectNotFound
from weft.model.events import Event, ObjectDeleted, ObjectRegistered, ReplicaAdded, ReplicaRemoved
from weft.model.ids import NodeId
from weft.model.node import Node, NodeStatus
from weft.model.object import GONE_REASONS, ObjectHash, StoredObject, is_content_hash


def existing_object(view: View, object_hash: ObjectHash) -> StoredObject:
    """The object, or that there is none."""
    found = view.objects.get(object_hash)
    if found is None or found.deleting:
        raise ObjectNotFound("not found", hash=object_hash)
    return found


def decide_register_object(view: View, command: RegisterObject, moment: Moment) -> tuple[Event, ...]:
    """A hash that is there is left as it is: whoever registers it again means the same bytes."""
    found = view.objects.get(command.object_hash)
    if found is not None and not found.deleting:
        return ()
    if found is not None and (there := [node_id for node_id in found.replicas if not _is_offline(view, node_id)]):
        raise ObjectBeingDeleted(
            f"object {command.object_hash} was deleted, and {', '.join(there)} has yet to let go of it; try again",
            hash=command.object_hash,
            nodes=there,
        )
    return (
        ObjectRegistered(
            object_hash=command.object_hash,
            size_bytes=command.size_bytes,
            replicas_wanted=command.replicas_wanted,
            at_ms=moment.now_ms,
        ),
    )


def decide_delete_object(view: View, command: DeleteObject, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """One that is on its way out already is left to go. Raises `ObjectNotFound`."""
    found = view.objects.get(command.object_hash)
    if found is None:
        raise ObjectNotFound("not found", hash=command.object_hash)
    return () if found.deleting else (ObjectDeleted(object_hash=found.object_hash),)


def decide_mark_missing(view: View, command: MarkMissing, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A copy that is not in the books, of an object that may not be either, is missing already."""
    found = view.objects.get(command.object_hash)
    if found is None or command.node_id not in (*found.replicas, *found.left):
        return ()
    return (ReplicaRemoved(object_hash=found.object_hash, node_id=command.node_id, reason="marked"),)


def decide_mark_healed(view: View, command: MarkHealed, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Only an object that is registered has copies, and only a node that is in the cluster holds one."""
    found = existing_object(view, command.object_hash)
    if command.node_id not in view.nodes:
        raise NodeNotFound("node not found", node_id=command.node_id)
    if command.node_id in found.replicas:
        return ()
    return (ReplicaAdded(object_hash=found.object_hash, node_id=command.node_id),)


def decide_report_replicas(view: View, command: ReportReplicas, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """What a node says of its own copies is so. Only what is news becomes an event.

    An object nobody registered is passed over: a node may bring a disk from another cluster's days.
    """
    node = view.nodes.get(command.node_id)
    if node is None or node.incarnation != command.incarnation:
        return ()
    events: list[Event] = []
    for object_hash in dict.fromkeys(command.held):
        found = view.objects.get(object_hash)
        if found is not None and node.node_id not in found.replicas:
            events.append(ReplicaAdded(object_hash=object_hash, node_id=node.node_id))
    for object_hash, reason in dict(command.gone).items():
        assert reason in GONE_REASONS, "a copy is gone for a reason that has a name"
        found = view.objects.get(object_hash)
        booked = found is not None and node.node_id in (*found.replicas, *found.left)
        if booked and object_hash not in command.held:
            events.append(ReplicaRemoved(object_hash=object_hash, node_id=node.node_id, reason=reason))
    return tuple(events)


def apply_object_registered(draft: Draft, event: ObjectRegistered) -> None:
    """The object is in the books, without a copy yet, but for those that nodes which are away have kept of it."""
    before = draft.objects.get(event.object_hash)
    draft.objects.put(
        event.object_hash,
        StoredObject(
            object_hash=event.object_hash,
            size_bytes=event.size_bytes,
            replicas_wanted=event.replicas_wanted,
            replicas=before.replicas if before is not None else (),
            registered_at_ms=event.at_ms,
            left=before.left if before is not None else (),
        ),
    )


def apply_object_deleted(draft: Draft, event: ObjectDeleted) -> None:
    """The object is none any more. Copies that only the books know of, which no node could let go of, are forgotten."""
    found = _row(draft, event.object_hash)
    kept = tuple(node_id for node_id in found.replicas if _could_keep(draft, node_id, found.object_hash))
    _put_or_remove(draft, msgspec.structs.replace(found, deleting=True, replicas=kept))


def apply_replica_added(draft: Draft, event: ReplicaAdded) -> None:
    """One copy more. They are kept in order of id, so that no digest depends on who was first."""
    found = _row(draft, event.object_hash)
    replicas = tuple(sorted({*found.replicas, event.node_id}))
    left = _without(found.left, event.node_id)
    draft.objects.put(event.object_hash, msgspec.structs.replace(found, replicas=replicas, left=left))


def apply_replica_removed(draft: Draft, event: ReplicaRemoved) -> None:
    """One copy less."""
    found = _row(draft, event.object_hash)
    replicas, left = _without(found.replicas, event.node_id), _without(found.left, event.node_id)
    _put_or_remove(draft, msgspec.structs.replace(found, replicas=replicas, left=left))


def lose_replicas(draft: Draft, node: Node) -> None:
    """A node is no more, and neither are its copies; what it took away on its disk is remembered.

    This looks at every object there is: nodes leave rarely, and a table of who holds what would be paid for with every
    copy that is ever made. So this is also when deletions that wait only for nodes that left are counted: between two
    departures they cannot become more than there were objects.
    """
    assert draft.ledger is not None, "a ledger is opened before anything else"
    policy = draft.ledger.policy
    for found in list(draft.objects.values()):
        if node.node_id not in found.replicas:
            continue
        left = _without(found.left, node.node_id)
        if node.incarnation is not None and is_content_hash(found.object_hash):
            left = (*left, node.node_id)[-policy.left_nodes_max :]
        replicas = _without(found.replicas, node.node_id)
        _put_or_remove(draft, msgspec.structs.replace(found, replicas=replicas, left=left))
    awaited = [found for found in draft.objects.values() if found.deleting and not found.replicas]
    if (surplus := len(awaited) - policy.deleted_awaited_max) > 0:
        awaited.sort(key=lambda found: (found.registered_at_ms, found.object_hash))
        for found in awaited[:surplus]:
            draft.objects.remove(found.object_hash)


def _without(nodes: tuple[NodeId, ...], node_id: NodeId) -> tuple[NodeId, ...]:
    return tuple(other for other in nodes if other != node_id)


def _put_or_remove(draft: Draft, found: StoredObject) -> None:
    """A deleted object leaves the books when nobody can have a copy; any other stays in them without one."""
    if found.deleting and not found.replicas and not found.left:
        draft.objects.remove(found.object_hash)
    else:
        draft.objects.put(found.object_hash, found)


def _could_keep(view: View, node_id: NodeId, object_hash: ObjectHash) -> bool:
    """Whether a node could have the bytes. One of another door never said that it lives, and is only marked by hand."""
    node = view.nodes.get(node_id)
    return node is not None and node.incarnation is not None and is_content_hash(object_hash)


def _is_offline(view: View, node_id: NodeId) -> bool:
    node = view.nodes.get(node_id)
    return node is None or node.status is NodeStatus.OFFLINE


def _row(draft: Draft, object_hash: ObjectHash) -> StoredObject:
    found = draft.objects.get(object_hash)
    assert found is not None, "only an object that is there gains or loses a copy"
    return found
