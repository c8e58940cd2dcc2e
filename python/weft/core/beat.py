"""What follows from beats: pure conclusions about regions from what their lenders were last heard to say.

Reports are observations, held by the shell and never logged. `conclude` looks at one region and at what was heard and
says which command, if any, that amounts to. It may be asked after every beat and by a timer, as often as one likes:
when nothing has changed it says nothing, and the command it gives is checked again where it is decided.
"""

from collections.abc import Mapping

import msgspec

from weft.core.region import USABLE_STATES, living_holders
from weft.core.state import View
from weft.model.commands import Command, ConfirmRegion, FailRegion, FinishRegion, LoseExtents
from weft.model.ids import Generation, Incarnation, NodeId, RegionId
from weft.model.policy import reserve_ms_max
from weft.model.region import Region, RegionState


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a node last said of its extents, in which life, holding which generation of its target.

    `ready` are the extents it has backed and `failed` those it could not, with its reason. An extent named in
    neither is not held.
    """

    incarnation: Incarnation
    generation: Generation
    ready: frozenset[tuple[RegionId, int]] = frozenset()
    failed: Mapping[tuple[RegionId, int], str] = {}

    def mentions(self, region_id: RegionId) -> bool:
        """Whether the node still has to do with a region."""
        return any(held == region_id for held, _ in self.ready)


def conclude(
    view: View, region: Region, reports: Mapping[NodeId, Report], silent: frozenset[NodeId], age_ms: int
) -> Command | None:
    """The command that what was heard of a region amounts to, or None.

    `age_ms` is how long the region has been known, by a clock that only grows: by one that people set, every plan would
    fail at once when it is put forward, and none for as long as it was put back.
    """
    if region.state is RegionState.PLANNED:
        return _conclude_planned(region, reports, age_ms)
    if region.state in USABLE_STATES:
        return _conclude_usable(region, reports)
    if region.state is RegionState.DELETING:
        return _conclude_deleting(view, region, reports, silent)
    return None


def _conclude_planned(region: Region, reports: Mapping[NodeId, Report], age_ms: int) -> Command | None:
    waiting: list[NodeId] = []
    for extent in region.layout.extents():
        for replica in extent.replicas:
            report = reports.get(replica.node_id)
            place = (region.region_id, extent.index)
            if report is None or report.incarnation != replica.incarnation:
                waiting.append(replica.node_id)
            elif (error := report.failed.get(place)) is not None:
                return FailRegion(region_id=region.region_id, error=f"node {replica.node_id}: {error}")
            elif place not in report.ready:
                waiting.append(replica.node_id)
    if not waiting:
        return ConfirmRegion(region_id=region.region_id)
    if age_ms > reserve_ms_max(region.size_bytes):
        names = ", ".join(dict.fromkeys(waiting))
        return FailRegion(region_id=region.region_id, error=f"no memory from {names} in time")
    return None


def _conclude_usable(region: Region, reports: Mapping[NodeId, Report]) -> Command | None:
    for replica in region.layout.lenders():
        report = reports.get(replica.node_id)
        if report is None or report.incarnation != replica.incarnation or not report.failed:
            continue
        lost = {
            index: error
            for (region_id, index), error in report.failed.items()
            if region_id == region.region_id and index not in region.lost_extents
        }
        if lost:
            return LoseExtents(
                region_id=region.region_id,
                node_id=replica.node_id,
                incarnation=replica.incarnation,
                indices=tuple(sorted(lost)),
                error=next(iter(lost.values())),
            )
    return None


def _conclude_deleting(
    view: View, region: Region, reports: Mapping[NodeId, Report], silent: frozenset[NodeId]
) -> Command | None:
    """A lender has let go when it holds a target that asks it to, and no longer speaks of the region."""
    released = []
    for node_id in living_holders(view, region, silent):
        node, report = view.nodes.get(node_id), reports.get(node_id)
        if node is None or report is None or report.incarnation != node.incarnation:
            return None
        if report.generation < node.generation or report.mentions(region.region_id):
            return None
        released.append(node_id)
    return FinishRegion(region_id=region.region_id, released=tuple(released))
