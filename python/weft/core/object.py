"""Objects: registered once, and held by whoever says that they hold them.

The first registration of a hash wins: its size and its wanted replicas stay. A copy is in the books from its holder's
own report on, never because a plan wanted it, until its holder says that it is gone, somebody marks it missing, or its
node leaves the cluster. A node that is only offline keeps its copies in the books: they come back with it.
"""

import msgspec

from weft.core.moment import Moment
from weft.core.state import Draft, View
from weft.model.commands import MarkHealed, MarkMissing, RegisterObject, ReportReplicas
from weft.model.errors import NodeNotFound, ObjectNotFound
from weft.model.events import Event, ObjectRegistered, ReplicaAdded, ReplicaRemoved
from weft.model.ids import NodeId
from weft.model.object import GONE_REASONS, ObjectHash, StoredObject


def existing_object(view: View, object_hash: ObjectHash) -> StoredObject:
    """The object, or that there is none."""
    found = view.objects.get(object_hash)
    if found is None:
        raise ObjectNotFound("not found", hash=object_hash)
    return found


def decide_register_object(view: View, command: RegisterObject, moment: Moment) -> tuple[Event, ...]:
    """A hash that is there is left as it is: whoever registers it again means the same bytes."""
    if command.object_hash in view.objects:
        return ()
    return (
        ObjectRegistered(
            object_hash=command.object_hash,
            size_bytes=command.size_bytes,
            replicas_wanted=command.replicas_wanted,
            at_ms=moment.now_ms,
        ),
    )


def decide_mark_missing(view: View, command: MarkMissing, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A copy that is not in the books, of an object that may not be either, is missing already."""
    found = view.objects.get(command.object_hash)
    if found is None or command.node_id not in found.replicas:
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
        if found is not None and node.node_id in found.replicas and object_hash not in command.held:
            events.append(ReplicaRemoved(object_hash=object_hash, node_id=node.node_id, reason=reason))
    return tuple(events)


def apply_object_registered(draft: Draft, event: ObjectRegistered) -> None:
    """The object is in the books, without a copy yet."""
    draft.objects.put(
        event.object_hash,
        StoredObject(
            object_hash=event.object_hash,
            size_bytes=event.size_bytes,
            replicas_wanted=event.replicas_wanted,
            replicas=(),
            registered_at_ms=event.at_ms,
        ),
    )


def apply_replica_added(draft: Draft, event: ReplicaAdded) -> None:
    """One copy more. They are kept in order of id, so that no digest depends on who was first."""
    found = _row(draft, event.object_hash)
    replicas = tuple(sorted({*found.replicas, event.node_id}))
    draft.objects.put(event.object_hash, msgspec.structs.replace(found, replicas=replicas))


def apply_replica_removed(draft: Draft, event: ReplicaRemoved) -> None:
    """One copy less."""
    _take_off(draft, _row(draft, event.object_hash), event.node_id)


def lose_replicas(draft: Draft, node_id: NodeId) -> None:
    """A node is no more, and neither are its copies.

    This looks at every object there is: nodes leave rarely, and a table of who holds what would be paid for with every
    copy that is ever made.
    """
    for found in list(draft.objects.values()):
        if node_id in found.replicas:
            _take_off(draft, found, node_id)


def _take_off(draft: Draft, found: StoredObject, node_id: NodeId) -> None:
    replicas = tuple(other for other in found.replicas if other != node_id)
    draft.objects.put(found.object_hash, msgspec.structs.replace(found, replicas=replicas))


def _row(draft: Draft, object_hash: ObjectHash) -> StoredObject:
    found = draft.objects.get(object_hash)
    assert found is not None, "only an object that is there gains or loses a copy"
    return found
