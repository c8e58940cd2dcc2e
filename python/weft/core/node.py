"""Nodes: joining, leaving, and the lives in between.

Where a node stands is `core.liveness`; here is what the log says of it. A new incarnation is a new life: whatever an
earlier one held is lost. Being removed ends everything, with the endpoint. A door that describes a node replaces what
that door owns and leaves the rest.
"""

import msgspec

from weft.core.holding import lose_holdings, touch
from weft.core.liveness import Signal, Standing, status_after, step
from weft.core.moment import Moment
from weft.core.object import lose_replicas
from weft.core.state import Draft, View
from weft.model.commands import (
    AdmitBeat,
    DescribeNode,
    DrainNode,
    GiveUpNode,
    PurgeNode,
    RegisterNode,
    RemoveNode,
    ResumeNode,
)
from weft.model.endpoint import TransportType
from weft.model.errors import ClusterNotFound, IncarnationRetired, NodeExists, NodeNotFound
from weft.model.events import (
    ClusterFounded,
    EndpointRegistered,
    Event,
    LendingChanged,
    NodeAppeared,
    NodeDescribed,
    NodeDrained,
    NodeIncarnated,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeResumed,
    NodeReturned,
)
from weft.model.ids import Generation, NodeId
from weft.model.node import Node, NodeDescription, NodeStatus


def existing_node(view: View, node_id: NodeId) -> Node:
    """The node, or why there is none: no cluster, or no node of that id in it."""
    node = view.nodes.get(node_id)
    if node is not None:
        return node
    if view.cluster is None:
        raise ClusterNotFound("no cluster has been founded; POST /cluster founds one")
    raise NodeNotFound(f"no node {node_id} is in the cluster", node_id=node_id)


def describe_joining(command: RegisterNode, moment: Moment) -> list[Event]:
    """The events by which a node comes in, its endpoint included when it brought one."""
    events: list[Event] = [NodeRegistered(node=command.node, at_ms=moment.now_ms)]
    if command.endpoint is not None:
        events.append(EndpointRegistered(node_id=command.node.node_id, half=command.endpoint))
    return events


def decide_register_node(view: View, command: RegisterNode, moment: Moment) -> tuple[Event, ...]:
    """A node joins once. One that other doors took in first still has this door's fields to say."""
    if view.cluster is None:
        raise ClusterNotFound("no cluster has been founded; POST /cluster founds one")
    said = command.node
    node = view.nodes.get(said.node_id)
    if node is None:
        return tuple(describe_joining(command, moment))
    if node.machine is not None:
        raise NodeExists(f"node {node.node_id} is already in the cluster", node_id=node.node_id)
    events: list[Event] = [NodeDescribed(node_id=node.node_id, machine=said.machine)]
    if said.lend_bytes != node.lend_bytes:
        events.append(LendingChanged(node_id=node.node_id, lend_bytes=said.lend_bytes))
    if command.endpoint is not None:
        events.append(EndpointRegistered(node_id=node.node_id, half=command.endpoint))
    return tuple(events)


def decide_describe_node(view: View, command: DescribeNode, moment: Moment) -> tuple[Event, ...]:
    """A door says what it owns: of a new node, or anew of one that is there. The same again is no news.

    Registering at the pools door says that a node is there and wants work, so it ends a silence and a drain.
    """
    node = view.nodes.get(command.node_id)
    if node is None:
        return _first_description(view, command, moment)
    events: list[Event] = []
    engines = command.engines if command.engines != node.engines else None
    storage = command.storage if command.storage != node.storage else None
    if engines is not None or storage is not None:
        events.append(NodeDescribed(node_id=node.node_id, engines=engines, storage=storage))
    if command.engines is not None:
        if node.drained:
            events.append(NodeResumed(node_id=node.node_id))
        if node.status is NodeStatus.OFFLINE:
            events.append(NodeReturned(node_id=node.node_id))
    return tuple(events)


def decide_drain_node(view: View, command: DrainNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A node that is there can be drained; one that is drained already stays so."""
    node = existing_node(view, command.node_id)
    return () if node.drained else (NodeDrained(node_id=node.node_id),)


def decide_resume_node(view: View, command: ResumeNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A drained node can be given work again."""
    node = existing_node(view, command.node_id)
    return (NodeResumed(node_id=node.node_id),) if node.drained else ()


def decide_purge_node(view: View, command: PurgeNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A node that is offline is forgotten, unless it holds part of a region: its memory may yet come back with it."""
    node = view.nodes.get(command.node_id)
    if node is None or step(Standing(node.status), Signal.PURGE) is not Standing.GONE:
        return ()
    return () if node.node_id in view.holdings else (NodeRemoved(node_id=node.node_id),)


def decide_remove_node(view: View, command: RemoveNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A node that is there can go."""
    existing_node(view, command.node_id)
    return (NodeRemoved(node_id=command.node_id),)


def decide_admit_beat(view: View, command: AdmitBeat, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A beat is news when it begins a life, ends a silence or lends otherwise; refused when its life is over."""
    node = existing_node(view, command.node_id)
    if command.incarnation is not None and command.incarnation in node.retired:
        raise IncarnationRetired(
            f"node {node.node_id} has begun a newer life than this process's; "
            "stop this process, or give it a name of its own with --name",
            node_id=node.node_id,
        )
    events: list[Event] = []
    if command.incarnation is not None and node.incarnation != command.incarnation:
        events.append(NodeIncarnated(node_id=node.node_id, incarnation=command.incarnation))
    elif node.status is NodeStatus.OFFLINE:
        events.append(NodeReturned(node_id=node.node_id))
    elif node.status is NodeStatus.JOINING or not node.is_watched:
        # Who beats once is watched from then on, also by a coordinator that only has the log to go by.
        events.append(NodeAppeared(node_id=node.node_id))
    if command.lend_bytes is not None and command.lend_bytes != node.lend_bytes:
        events.append(LendingChanged(node_id=node.node_id, lend_bytes=command.lend_bytes))
    if command.draining and not node.drained:
        events.append(NodeDrained(node_id=node.node_id))
    return tuple(events)


def decide_give_up_node(view: View, command: GiveUpNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Only the life that fell silent is given up: one that began since is another matter."""
    node = view.nodes.get(command.node_id)
    if node is None or node.incarnation != command.incarnation or node.status is NodeStatus.OFFLINE:
        return ()
    return (NodeLost(node_id=node.node_id),)


def apply_node_registered(draft: Draft, event: NodeRegistered) -> None:
    """The node is in the cluster, and nothing is known of any life of it."""
    said = event.node
    draft.nodes.put(
        said.node_id,
        Node(
            node_id=said.node_id,
            status=said.status,
            machine=said.machine,
            lend_bytes=said.lend_bytes,
            reserved_bytes=0,
            incarnation=None,
            retired=(),
            generation=Generation(draft.marks.sequence),
            joined_at_ms=event.at_ms,
            engines=said.engines,
            storage=said.storage,
            drained=said.status is NodeStatus.DRAINING,
        ),
    )


def apply_node_described(draft: Draft, event: NodeDescribed) -> None:
    """The groups that were given are replaced."""
    node = _row(draft, event.node_id)
    changed = msgspec.structs.replace(
        node,
        machine=event.machine if event.machine is not None else node.machine,
        engines=event.engines if event.engines is not None else node.engines,
        storage=event.storage if event.storage is not None else node.storage,
    )
    draft.nodes.put(event.node_id, changed)


def apply_node_appeared(draft: Draft, event: NodeAppeared) -> None:
    """The node is there, and is missed from now on when it is not heard."""
    _signal(draft, event.node_id, Signal.BEAT)
    draft.nodes.put(event.node_id, msgspec.structs.replace(_row(draft, event.node_id), appeared=True))


def apply_node_drained(draft: Draft, event: NodeDrained) -> None:
    """The node gets nothing new, also when it comes back from a silence."""
    _signal(draft, event.node_id, Signal.DRAIN, drained=True)


def apply_node_resumed(draft: Draft, event: NodeResumed) -> None:
    """The node may be given work."""
    _signal(draft, event.node_id, Signal.RESUME, drained=False)


def apply_node_removed(draft: Draft, event: NodeRemoved) -> None:
    """The node, its endpoint and what it held are gone, in this order: a lost extent is one whose node is no more."""
    node = _row(draft, event.node_id)
    draft.nodes.remove(event.node_id)
    lose_holdings(draft, event.node_id, f"node {event.node_id} was removed")
    lose_replicas(draft, node)
    if event.node_id in draft.endpoints:
        draft.endpoints.remove(event.node_id)
        draft.marks = draft.marks._replace(endpoints_generation=Generation(draft.marks.sequence))


def apply_node_incarnated(draft: Draft, event: NodeIncarnated) -> None:
    """The node's new life holds nothing yet."""
    node, ledger = _row(draft, event.node_id), draft.ledger
    assert ledger is not None, "a ledger is opened before anything else"
    retired = node.retired
    if node.incarnation is not None:
        retired = (*retired, node.incarnation)[-ledger.policy.retired_count_max :]
    changed = msgspec.structs.replace(
        node,
        status=status_after(node, Signal.BEAT),
        incarnation=event.incarnation,
        retired=retired,
        reserved_bytes=0,
    )
    draft.nodes.put(node.node_id, changed)
    lose_holdings(draft, node.node_id, f"node {node.node_id} started anew while it was being planned on")
    if node.incarnation is not None:
        _end_queue_pairs(draft, node.node_id)
    touch(draft, node.node_id)


def apply_node_lost(draft: Draft, event: NodeLost) -> None:
    """The node counts for nothing until it is heard."""
    _signal(draft, event.node_id, Signal.TIMEOUT)


def apply_node_returned(draft: Draft, event: NodeReturned) -> None:
    """The node is back, with what it held: it is the same life."""
    _signal(draft, event.node_id, Signal.BEAT)


def apply_lending_changed(draft: Draft, event: LendingChanged) -> None:
    """The node has more room for plans, or less."""
    draft.nodes.put(event.node_id, msgspec.structs.replace(_row(draft, event.node_id), lend_bytes=event.lend_bytes))


def _end_queue_pairs(draft: Draft, node_id: NodeId) -> None:
    """A node's life has ended, and its process's queue pairs with it: whoever took the record for true would wait.

    Where it listens stays, since the next life of a node mostly listens there again; a record of nothing but a queue
    pair says nothing any more, and goes.
    """
    endpoint = draft.endpoints.get(node_id)
    if endpoint is None or endpoint.rdma is None:
        return
    if endpoint.tcp is None:
        draft.endpoints.remove(node_id)
    else:
        version = endpoint.version + 1
        left = msgspec.structs.replace(endpoint, preferred=TransportType.TCP, rdma=None, version=version)
        draft.endpoints.put(node_id, left)
    draft.marks = draft.marks._replace(endpoints_generation=Generation(draft.marks.sequence))


def _first_description(view: View, command: DescribeNode, moment: Moment) -> tuple[Event, ...]:
    """A node comes in through a door that knows no clusters. One that promises beats is joining until the first."""
    described = NodeDescription(
        node_id=command.node_id,
        status=NodeStatus.ONLINE if command.engines is None else NodeStatus.JOINING,
        machine=None,
        lend_bytes=0,
        engines=command.engines,
        storage=command.storage,
    )
    registered = NodeRegistered(node=described, at_ms=moment.now_ms)
    if view.cluster is not None:
        return (registered,)
    return (ClusterFounded(name=command.cluster_name, at_ms=moment.now_ms), registered)


def _signal(draft: Draft, node_id: NodeId, signal: Signal, drained: bool | None = None) -> None:
    """Carry a node through the table of its life."""
    node = _row(draft, node_id)
    changed = msgspec.structs.replace(
        node, status=status_after(node, signal), drained=node.drained if drained is None else drained
    )
    draft.nodes.put(node_id, changed)


def _row(draft: Draft, node_id: NodeId) -> Node:
    node = draft.nodes.get(node_id)
    assert node is not None, "only a node that is there changes"
    return node
