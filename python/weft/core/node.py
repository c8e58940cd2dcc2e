"""Nodes: joining, leaving, and the lives in between.

A node's life in the log:

    joining ──first beat──► online ──silent too long──► offline ──beat──► online
    any ──new incarnation──► online, and whatever an earlier life held is lost
    draining stays draining, whatever is heard
    any ──removed──► gone, with its endpoint, and whatever it held is lost
"""

import msgspec

from weft.core.holding import lose_holdings, touch
from weft.core.moment import Moment
from weft.core.state import Draft, View
from weft.model.commands import AdmitBeat, GiveUpNode, RegisterNode, RemoveNode
from weft.model.errors import ClusterNotFound, IncarnationRetired, NodeExists, NodeNotFound
from weft.model.events import (
    EndpointRegistered,
    Event,
    LendingChanged,
    NodeIncarnated,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeReturned,
)
from weft.model.ids import Generation, NodeId
from weft.model.node import Node, NodeStatus


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
    """A node joins once."""
    if view.cluster is None:
        raise ClusterNotFound("no cluster has been founded; POST /cluster founds one")
    node_id = command.node.node_id
    if node_id in view.nodes:
        raise NodeExists(f"node {node_id} is already in the cluster", node_id=node_id)
    return tuple(describe_joining(command, moment))


def decide_remove_node(view: View, command: RemoveNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A node that is there can go."""
    existing_node(view, command.node_id)
    return (NodeRemoved(node_id=command.node_id),)


def decide_admit_beat(view: View, command: AdmitBeat, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A beat is news when it begins a life, ends a silence or lends otherwise; refused when its life is over."""
    node = existing_node(view, command.node_id)
    if command.incarnation in node.retired:
        raise IncarnationRetired(
            f"node {node.node_id} has begun a newer life than this process's; "
            "stop this process, or give it a name of its own with --name",
            node_id=node.node_id,
        )
    events: list[Event] = []
    if node.incarnation != command.incarnation:
        events.append(NodeIncarnated(node_id=node.node_id, incarnation=command.incarnation))
    elif node.status is NodeStatus.OFFLINE:
        events.append(NodeReturned(node_id=node.node_id))
    if command.lend_bytes is not None and command.lend_bytes != node.lend_bytes:
        events.append(LendingChanged(node_id=node.node_id, lend_bytes=command.lend_bytes))
    return tuple(events)


def decide_give_up_node(view: View, command: GiveUpNode, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Only the life that fell silent is given up: one that began since is another matter."""
    node = view.nodes.get(command.node_id)
    if node is None or node.incarnation != command.incarnation or node.status is not NodeStatus.ONLINE:
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
        ),
    )


def apply_node_removed(draft: Draft, event: NodeRemoved) -> None:
    """The node, its endpoint and what it held are gone, in this order: a lost extent is one whose node is no more."""
    draft.nodes.remove(event.node_id)
    lose_holdings(draft, event.node_id, f"node {event.node_id} was removed")
    if event.node_id in draft.endpoints:
        draft.endpoints.remove(event.node_id)
        draft.marks = draft.marks._replace(endpoints_generation=Generation(draft.marks.sequence))


def apply_node_incarnated(draft: Draft, event: NodeIncarnated) -> None:
    """The node's new life holds nothing yet."""
    node = draft.nodes.get(event.node_id)
    ledger = draft.ledger
    assert node is not None, "only a node that is there begins a life"
    assert ledger is not None, "a ledger is opened before anything else"
    retired = node.retired
    if node.incarnation is not None:
        retired = (*retired, node.incarnation)[-ledger.policy.retired_count_max :]
    status = NodeStatus.DRAINING if node.status is NodeStatus.DRAINING else NodeStatus.ONLINE
    draft.nodes.put(
        node.node_id,
        msgspec.structs.replace(node, status=status, incarnation=event.incarnation, retired=retired, reserved_bytes=0),
    )
    lose_holdings(draft, node.node_id, f"node {node.node_id} started anew while it was being planned on")
    touch(draft, node.node_id)


def apply_node_lost(draft: Draft, event: NodeLost) -> None:
    """The node counts for nothing until it is heard."""
    _set_status(draft, event.node_id, NodeStatus.OFFLINE)


def apply_node_returned(draft: Draft, event: NodeReturned) -> None:
    """The node is back, with what it held: it is the same life."""
    _set_status(draft, event.node_id, NodeStatus.ONLINE)


def apply_lending_changed(draft: Draft, event: LendingChanged) -> None:
    """The node has more room for plans, or less."""
    node = draft.nodes.get(event.node_id)
    assert node is not None, "only a node that is there lends"
    draft.nodes.put(event.node_id, msgspec.structs.replace(node, lend_bytes=event.lend_bytes))


def _set_status(draft: Draft, node_id: NodeId, status: NodeStatus) -> None:
    node = draft.nodes.get(node_id)
    assert node is not None, "only a node that is there changes its status"
    draft.nodes.put(node_id, msgspec.structs.replace(node, status=status))
