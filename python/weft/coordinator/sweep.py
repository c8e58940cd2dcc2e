"""The sweep: what time alone makes true. Nodes silent for too long, plans that are late, deletions, lapsed leases.

Each look asks the core what follows from what was heard and has the writer decide it. Looking again changes nothing.
"""

from weft.coordinator.beats import Beats
from weft.coordinator.leases import Leases
from weft.coordinator.ports import Clock
from weft.coordinator.writer import Writer, internal_cause
from weft.core.beat import conclude
from weft.model.attachment import Closing
from weft.model.commands import CloseAttachment, Command, GiveUpNode
from weft.model.errors import Rejected
from weft.model.node import NodeStatus
from weft.model.policy import NODE_LOST_MS
from weft.model.region import RegionState

UNSETTLED_STATES = frozenset({RegionState.PLANNED, RegionState.DELETING})


class Sweep:
    """One look at everything that waits for time to pass."""

    def __init__(
        self, writer: Writer, beats: Beats, leases: Leases, clock: Clock, node_lost_ms: int = NODE_LOST_MS
    ) -> None:
        self._writer = writer
        self._beats = beats
        self._leases = leases
        self._clock = clock
        self._node_lost_ms = node_lost_ms

    async def look(self) -> int:
        """Have everything decided that is due. Returns how many commands that was."""
        due = [*self._lost_nodes(), *self._unsettled_regions(), *self._lapsed_attachments()]
        for command in due:
            try:
                await self._writer.submit(command, internal_cause("sweep"))
            except Rejected:
                # What was due when we looked has been settled by somebody else since.
                continue
        return len(due)

    def _lost_nodes(self) -> list[Command]:
        state = self._writer.state
        lost: list[Command] = []
        for node_id in self._beats.silent(self._node_lost_ms):
            node = state.nodes.get(node_id)
            if node is not None and node.incarnation is not None and node.status is NodeStatus.ONLINE:
                lost.append(GiveUpNode(node_id=node_id, incarnation=node.incarnation))
        return lost

    def _unsettled_regions(self) -> list[Command]:
        state, silent = self._writer.state, self._beats.silent()
        concluded = (
            conclude(state, region, self._beats.reports, silent, self._clock.now_ms())
            for region in state.regions.values()
            if region.state in UNSETTLED_STATES
        )
        return [command for command in concluded if command is not None]

    def _lapsed_attachments(self) -> list[Command]:
        state = self._writer.state
        lapsed: list[Command] = []
        for attachment_id in self._leases.lapsed():
            attachment = state.attachments.get(attachment_id)
            region = state.regions.get(attachment.region_id) if attachment is not None else None
            if region is not None:
                lapsed.append(CloseAttachment(region=region.name, attachment_id=attachment_id, reason=Closing.LAPSED))
        return lapsed
