"""The storage door over HTTP: nodes that store, how busy they are, and what operators do to nodes of any door."""

from weft.api.bodies.storage import (
    Done,
    NodeStanding,
    StatsInfo,
    StatsTaken,
    StorageNodeInfo,
)
from weft.api.doors.storage import body_to_stats, node_to_body, node_to_command, stats_to_body
from weft.coordinator.beats import Beats
from weft.coordinator.causes import cause_of
from weft.coordinator.chronicle import Chronicle
from weft.coordinator.observations import Observations
from weft.coordinator.writer import Writer
from weft.core.node import existing_node
from weft.model.commands import DrainNode, ResumeNode
from weft.model.errors import NodeNotFound
from weft.model.events import NodeRegistered
from weft.model.ids import NodeId, parse_node_id, spell_node_id
from weft.model.node import Node
from weft.serve import Call


class StorageNodes:
    """Answers for nodes that store."""

    def __init__(
        self, writer: Writer, beats: Beats, observations: Observations, chronicle: Chronicle, *, cluster_name: str
    ) -> None:
        self._writer = writer
        self._beats = beats
        self._observations = observations
        self._chronicle = chronicle
        self._cluster_name = cluster_name

    async def register(self, call: Call) -> Done:
        """POST /register."""
        command = node_to_command(call.body, self._cluster_name)
        answer = await self._writer.submit(command, cause_of(call))
        if any(isinstance(event, NodeRegistered) for event in answer.events):
            self._chronicle.tell("node registered", command.node_id, call)
        elif answer.events:
            self._chronicle.tell("node re-registered", command.node_id, call)
        return Done()

    async def show_all(self, call: Call) -> list[StorageNodeInfo]:  # noqa: ARG002
        """GET /nodes."""
        state = self._writer.state
        rows = sorted(state.nodes.values(), key=lambda node: node.node_id)
        return [node_to_body(node, state.endpoints.get(node.node_id)) for node in rows]

    async def show(self, call: Call) -> StorageNodeInfo:
        """GET /node/{node_id}."""
        node = self._existing(parse_node_id(call.path["node_id"]))
        return node_to_body(node, self._writer.state.endpoints.get(node.node_id))

    async def show_stats(self, call: Call) -> StatsInfo:
        """GET /node/{node_id}/stats."""
        node_id = parse_node_id(call.path["node_id"])
        stats = self._observations.stats.get(node_id)
        return StatsInfo(
            node_id=node_id, found=stats is not None, stats=stats_to_body(stats) if stats is not None else None
        )

    async def take_stats(self, call: Call) -> StatsTaken:
        """POST /node/{node_id}/stats. Whoever speaks of itself is heard, where anybody waits to hear it."""
        node = self._existing(parse_node_id(call.path["node_id"]))
        self._observations.see_stats(node.node_id, body_to_stats(call.body))
        self._beats.notice(node.node_id)
        return StatsTaken(node_id=node.node_id)

    async def drain(self, call: Call) -> NodeStanding:
        """POST /nodes/{node_id}/drain."""
        node_id = parse_node_id(call.path["node_id"])
        await self._writer.submit(DrainNode(node_id=node_id), cause_of(call))
        return self._standing(node_id)

    async def resume(self, call: Call) -> NodeStanding:
        """POST /nodes/{node_id}/resume."""
        node_id = parse_node_id(call.path["node_id"])
        await self._writer.submit(ResumeNode(node_id=node_id), cause_of(call))
        return self._standing(node_id)

    def _standing(self, node_id: NodeId) -> NodeStanding:
        node = existing_node(self._writer.state, node_id)
        return NodeStanding(node_id=spell_node_id(node_id), status=self._beats.standing(node).value)

    def _existing(self, node_id: NodeId) -> Node:
        """The node, or the seed's own sentence: at this door there is no cluster that could be missing."""
        node = self._writer.state.nodes.get(node_id)
        if node is None:
            raise NodeNotFound("node not found", node_id=node_id)
        return node
