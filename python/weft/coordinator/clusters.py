"""The cluster over HTTP: founding, showing, destroying; its nodes joining and leaving."""

from weft.api.bodies.cluster import (
    ClusterCreated,
    ClusterDestroyedBody,
    ClusterInfo,
    NodeJoined,
    NodeRemovedBody,
    PageBody,
)
from weft.api.bodies.fields import iso_time
from weft.api.doors.cluster import cluster_to_command, node_to_body, node_to_command, parse_address
from weft.coordinator.beats import Beats
from weft.coordinator.causes import cause_of
from weft.coordinator.writer import Writer
from weft.core.cluster import existing_cluster
from weft.core.region import existing_region
from weft.model.commands import DestroyCluster, RemoveNode
from weft.model.events import ClusterDestroyed
from weft.model.ids import parse_node_id, parse_region_name, spell_node_id
from weft.model.node import Node, NodeStatus
from weft.model.region import locate
from weft.serve import Call


class Clusters:
    """Answers for the cluster and its nodes."""

    def __init__(self, writer: Writer, beats: Beats) -> None:
        self._writer = writer
        self._beats = beats

    async def found(self, call: Call) -> ClusterCreated:
        """POST /cluster."""
        command = cluster_to_command(call.body)
        await self._writer.submit(command, cause_of(call))
        active = [joining.node.machine for joining in command.nodes if joining.node.status == "online"]
        machines = [machine for machine in active if machine is not None]
        return ClusterCreated(
            cluster_name=command.name,
            nodes=len(command.nodes),
            total_memory_mb=sum(machine.memory_mb for machine in machines),
            total_vcpus=sum(machine.cpu_count for machine in machines),
        )

    async def show(self, call: Call) -> ClusterInfo:  # noqa: ARG002
        """GET /cluster."""
        state = self._writer.state
        cluster, ledger = existing_cluster(state), state.ledger
        assert ledger is not None, "a cluster is founded in a ledger"
        nodes = sorted(state.nodes.values(), key=_order)
        statuses = {node.node_id: self._beats.standing(node).status for node in nodes}
        active = [node for node in nodes if statuses[node.node_id] is NodeStatus.ONLINE]
        return ClusterInfo(
            name=cluster.name,
            nodes=len(nodes),
            active_nodes=len(active),
            total_memory_mb=sum(node.memory_mb for node in active),
            total_vcpus=sum(node.cpu_count for node in active),
            vm_running=False,
            created_at=iso_time(cluster.founded_at_ms),
            cluster_id=ledger.cluster_id.hex(),
            position=state.marks.position,
            members=[
                node_to_body(
                    node,
                    statuses[node.node_id],
                    self._beats.silence_ms(node.node_id),
                    self._beats.peers_of(node.node_id),
                )
                for node in nodes
            ],
        )

    async def destroy(self, call: Call) -> ClusterDestroyedBody:
        """DELETE /cluster."""
        answer = await self._writer.submit(DestroyCluster(), cause_of(call))
        (event,) = answer.events
        assert isinstance(event, ClusterDestroyed), "destroying a cluster is one event"
        return ClusterDestroyedBody(cluster_name=event.name)

    async def join(self, call: Call) -> NodeJoined:
        """POST /nodes."""
        command = node_to_command(call.body)
        await self._writer.submit(command, cause_of(call))
        return NodeJoined(node_id=spell_node_id(command.node.node_id), cluster_nodes=len(self._writer.state.nodes))

    async def leave(self, call: Call) -> NodeRemovedBody:
        """DELETE /nodes/{node_id}."""
        node_id = parse_node_id(call.path["node_id"])
        await self._writer.submit(RemoveNode(node_id=node_id), cause_of(call))
        return NodeRemovedBody(node_id=spell_node_id(node_id), remaining_nodes=len(self._writer.state.nodes))

    async def show_page(self, call: Call) -> PageBody:
        """GET /pages/{gpa}."""
        state, address = self._writer.state, parse_address(call.path["gpa"])
        existing_cluster(state)
        if call.query.region is None:
            return PageBody(gpa=hex(address), region=None, owner_node=None)
        region = existing_region(state, parse_region_name(call.query.region, "region"))
        owner = None
        if address < region.size_bytes:
            extent, _ = locate(region.layout, address)
            owner = None if extent.index in region.lost_extents else spell_node_id(extent.home.node_id)
        return PageBody(gpa=hex(address), region=region.name, owner_node=owner)


def _order(node: Node) -> tuple[int, str]:
    """Numbers in order of number, then names in order of name."""
    spelled = spell_node_id(node.node_id)
    return (spelled, "") if isinstance(spelled, int) else (2**63, spelled)
