"""The sweep: what time alone makes true. Nodes silent for too long, plans that are late, deletions, lapsed leases, and
the copies that are short because of any of these.

Readers apply the time-out themselves; the sweep only writes down what they see already, so it may look at nodes less
often than at the rest. Each look asks the core what follows from what was heard and has the writer decide it. Looking
again changes nothing.
"""

from weft.coordinator.beats import Beats
from weft.coordinator.healer import Healer
from weft.coordinator.leases import Leases
from weft.coordinator.writer import Writer, internal_cause
from weft.core.beat import conclude
from weft.model.attachment import Closing
from weft.model.commands import CloseAttachment, Command, GiveUpNode, PurgeNode
from weft.model.errors import Rejected
from weft.model.ids import NodeId
from weft.model.region import RegionState
from weft.telemetry import Log

UNSETTLED_STATES = frozenset({RegionState.PLANNED, RegionState.DELETING})


class Sweep:
    """One look at everything that waits for time to pass."""

    def __init__(self, writer: Writer, beats: Beats, leases: Leases, healer: Healer, log: Log) -> None:
        self._writer = writer
        self._beats = beats
        self._leases = leases
        self._healer = healer
        self._log = log
        self._doubted: frozenset[NodeId] = frozenset()

    async def look(self, *, at_nodes: bool = True) -> int:
        """Have everything decided that is due. Returns how many commands that was."""
        due = [*self._unsettled_regions(), *self._lapsed_attachments()]
        if at_nodes:
            due += [*self._lost_nodes(), *self._forgettable_nodes()]
        for command in due:
            # Each command waits for the one before it to be kept, which may take as long as a layer takes.
            if isinstance(command, GiveUpNode) and command.node_id not in self._beats.verdict().lost:
                continue
            try:
                await self._writer.submit(command, internal_cause("sweep"))
            except Rejected:
                # What was due when we looked has been settled by somebody else since.
                continue
        self._healer.look()
        return len(due)

    def _lost_nodes(self) -> list[Command]:
        nodes, verdict = self._writer.state.nodes, self._beats.verdict()
        if verdict.doubted and not self._doubted:
            self._log.warning("most nodes fell silent at once; giving up none of them yet", nodes=len(verdict.doubted))
        self._doubted = verdict.doubted
        rows = [nodes.get(node_id) for node_id in sorted(verdict.lost)]
        return [GiveUpNode(node_id=node.node_id, incarnation=node.incarnation) for node in rows if node is not None]

    def _forgettable_nodes(self) -> list[Command]:
        holdings = self._writer.state.holdings
        return [PurgeNode(node_id=node_id) for node_id in self._beats.forgettable() if node_id not in holdings]

    def _unsettled_regions(self) -> list[Command]:
        state, silent = self._writer.state, self._beats.silent()
        concluded = (
            conclude(state, region, self._beats.reports, silent, self._beats.age_ms(region.region_id))
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
