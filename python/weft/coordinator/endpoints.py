"""Endpoints over HTTP: registering one half, showing one node's, listing all."""

import msgspec

from weft.api.bodies.cluster import EndpointInfo, EndpointList, EndpointRegisteredBody
from weft.api.doors.cluster import endpoint_to_body, endpoint_to_command
from weft.coordinator.causes import cause_of
from weft.coordinator.writer import Writer
from weft.core.cluster import existing_cluster
from weft.core.endpoint import existing_endpoint
from weft.model.ids import Generation, parse_node_id, spell_node_id
from weft.serve import Call, Content


class Endpoints:
    """Answers for how nodes are reached."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._list = Content(b"")
        self._list_generation = Generation(-1)

    async def register(self, call: Call) -> EndpointRegisteredBody:
        """POST /nodes/{node_id}/endpoint."""
        node_id = parse_node_id(call.path["node_id"])
        command = endpoint_to_command(node_id, call.body)
        await self._writer.submit(command, cause_of(call))
        return EndpointRegisteredBody(node_id=spell_node_id(node_id), transport_type=call.body.transport_type)

    async def show(self, call: Call) -> EndpointInfo:
        """GET /nodes/{node_id}/endpoint."""
        return endpoint_to_body(existing_endpoint(self._writer.state, parse_node_id(call.path["node_id"])))

    async def show_all(self, call: Call) -> Content:  # noqa: ARG002
        """GET /endpoints. Encoded once for each change of any endpoint: every node of a cluster asks for this list."""
        state = self._writer.state
        cluster = existing_cluster(state)
        if self._list_generation != (generation := state.marks.endpoints_generation):
            endpoints = {endpoint.node_id: endpoint_to_body(endpoint) for endpoint in state.endpoints.values()}
            body = EndpointList(cluster_name=cluster.name, endpoints=dict(sorted(endpoints.items())))
            self._list, self._list_generation = Content(msgspec.json.encode(body)), generation
        return self._list
