"""Endpoints: a half is replaced and preferred, the other stays, until the life ends that registered it."""

import msgspec

from weft.core.moment import Moment
from weft.core.node import existing_node
from weft.core.state import Draft, View
from weft.model.commands import RegisterEndpoint
from weft.model.endpoint import Endpoint, TcpHalf, transport_of
from weft.model.errors import EndpointNotFound
from weft.model.events import EndpointRegistered, Event
from weft.model.ids import Generation, NodeId


def existing_endpoint(view: View, node_id: NodeId) -> Endpoint:
    """The endpoint, or which of cluster, node and endpoint is missing."""
    existing_node(view, node_id)
    endpoint = view.endpoints.get(node_id)
    if endpoint is None:
        raise EndpointNotFound(f"No endpoint registered for node {node_id}", node_id=node_id)
    return endpoint


def decide_register_endpoint(view: View, command: RegisterEndpoint, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A node that is there may say how it is reached, as often as it likes.

    Saying the same again is an event too: a peer that restarted at its old address is a new party to greet.
    """
    existing_node(view, command.node_id)
    return (EndpointRegistered(node_id=command.node_id, half=command.half),)


def apply_endpoint_registered(draft: Draft, event: EndpointRegistered) -> None:
    """The half is replaced and preferred, and everybody's target has changed."""
    endpoint = draft.endpoints.get(event.node_id) or _NOWHERE
    half = event.half
    draft.endpoints.put(
        event.node_id,
        Endpoint(
            node_id=event.node_id,
            preferred=transport_of(half),
            tcp=half if isinstance(half, TcpHalf) else endpoint.tcp,
            rdma=endpoint.rdma if isinstance(half, TcpHalf) else half,
            version=endpoint.version + 1,
        ),
    )
    draft.marks = draft.marks._replace(endpoints_generation=Generation(draft.marks.sequence))


class _Nowhere(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's endpoint is before it has one."""

    tcp: None = None
    rdma: None = None
    version: int = 0


_NOWHERE = _Nowhere()
