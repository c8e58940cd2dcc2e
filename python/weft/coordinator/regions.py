"""Regions over HTTP: planning, showing, sealing, deleting."""

from weft.api.bodies.region import RegionDeleting, RegionInfo, RegionList, region_info
from weft.coordinator.beats import Beats
from weft.coordinator.causes import cause_of
from weft.coordinator.changes import Changes
from weft.coordinator.writer import Writer
from weft.core.cluster import existing_cluster
from weft.core.region import can_lend, existing_region
from weft.core.state import View
from weft.model.commands import DeleteRegion, PlanRegion, SealRegion
from weft.model.events import RegionPlanned
from weft.model.ids import RegionName, parse_region_name
from weft.model.policy import STRIPE_BYTES
from weft.model.region import Region, RegionState
from weft.serve import Call


class Regions:
    """Answers for regions."""

    def __init__(self, writer: Writer, beats: Beats, changes: Changes) -> None:
        self._writer = writer
        self._beats = beats
        self._changes = changes

    async def plan(self, call: Call) -> RegionInfo:
        """POST /regions."""
        name = parse_region_name(call.body.name)
        command = PlanRegion(name=name, size_bytes=call.body.size_bytes, lenders_max=call.body.lenders)
        answer = await self._writer.submit(command, cause_of(call))
        (event,) = answer.events
        assert isinstance(event, RegionPlanned), "planning a region is one event"
        return show_region(self._writer.state, self._living(name))

    async def show(self, call: Call) -> RegionInfo:
        """GET /regions/{name}, waiting while it is only planned."""
        name = parse_region_name(call.path["name"])
        existing_region(self._writer.state, name)
        await self._changes.until(lambda: not self._is_planned(name), call.query.wait_ms)
        return show_region(self._writer.state, self._living(name))

    async def show_all(self, call: Call) -> RegionList:  # noqa: ARG002
        """GET /regions."""
        state = self._writer.state
        existing_cluster(state)
        silent = self._beats.silent()
        lenders = [node for node in state.nodes.values() if can_lend(node, silent)]
        regions = sorted(state.regions.values(), key=_by_name)
        return RegionList(
            regions=[show_region(state, region) for region in regions],
            lent_bytes=sum(node.lend_bytes for node in lenders),
            free_bytes=sum(node.free_bytes // STRIPE_BYTES * STRIPE_BYTES for node in lenders),
        )

    async def seal(self, call: Call) -> RegionInfo:
        """POST /regions/{name}/seal."""
        name = parse_region_name(call.path["name"])
        await self._writer.submit(SealRegion(name=name), cause_of(call))
        return show_region(self._writer.state, self._living(name))

    async def delete(self, call: Call) -> RegionDeleting:
        """DELETE /regions/{name}."""
        name = parse_region_name(call.path["name"])
        await self._writer.submit(DeleteRegion(name=name, force=call.query.force), cause_of(call))
        return RegionDeleting(name=name)

    def _is_planned(self, name: RegionName) -> bool:
        state = self._writer.state
        region_id = state.region_ids.get(name)
        region = state.regions.get(region_id) if region_id is not None else None
        return region is not None and region.state is RegionState.PLANNED

    def _living(self, name: RegionName) -> Region:
        """The region now; it may have gone while a command about it was on its way."""
        return existing_region(self._writer.state, name)


def show_region(view: View, region: Region) -> RegionInfo:
    """A region with its open attachments."""
    found = (view.attachments.get(attachment_id) for attachment_id in region.attachment_ids)
    return region_info(region, [attachment for attachment in found if attachment is not None])


def _by_name(region: Region) -> RegionName:
    return region.name
