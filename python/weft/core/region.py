"""Regions: planned, ready, damaged, sealed, deleted.

planned ──all extents backed──► ready ──extents lost──► damaged
planned ──a lender cannot, or too late──► failed
any but deleting ──delete──► deleting ──every lender that lives let go──► gone
"""

import msgspec

from weft.core.cluster import existing_cluster
from weft.core.holding import holders, lose, put_down, take_up, touch_holders
from weft.core.layout import Room, choose_lenders, plan_layout
from weft.core.moment import Moment
from weft.core.state import Draft, View
from weft.model.attachment import Closing, Mode
from weft.model.commands import (
    ConfirmRegion,
    DeleteRegion,
    FailRegion,
    FinishRegion,
    LoseExtents,
    PlanRegion,
    SealRegion,
)
from weft.model.errors import CapacityExceeded, RegionExists, RegionInUse, RegionNotFound, RegionNotReady
from weft.model.events import (
    AttachmentClosed,
    Event,
    ExtentsLost,
    RegionDeletionBegun,
    RegionFailed,
    RegionPlanned,
    RegionReady,
    RegionRemoved,
    RegionSealed,
)
from weft.model.ids import Generation, NodeId, RegionName
from weft.model.node import Node, NodeStatus
from weft.model.policy import REGION_LENDERS_MAX, REGION_NAMES_MAX, STRIPE_BYTES
from weft.model.region import Region, RegionState, Replica, stripes_for

USABLE_STATES = frozenset({RegionState.READY, RegionState.DAMAGED})
"""The states in which a region can be attached and sealed."""


def existing_region(view: View, name: RegionName) -> Region:
    """The region of a name, or what is missing."""
    region_id = view.region_ids.get(name)
    region = view.regions.get(region_id) if region_id is not None else None
    if region is None:
        existing_cluster(view)
        raise RegionNotFound(f"no region {name!r} exists", region=name)
    return region


def usable_region(view: View, name: RegionName) -> Region:
    """The region of a name in a state in which it can be used, or why it cannot be."""
    region = existing_region(view, name)
    if region.state in USABLE_STATES:
        return region
    reason = f": {region.error}" if region.error else ""
    raise RegionNotReady(f"region {name!r} is {region.state}{reason}", region=name, state=str(region.state))


def living_holders(view: View, region: Region, silent: frozenset[NodeId]) -> list[NodeId]:
    """The holders of a region that can be expected to answer."""
    return [node_id for node_id in holders(view, region) if node_id not in silent and not _is_offline(view, node_id)]


def can_lend(node: Node, silent: frozenset[NodeId]) -> bool:
    """Whether a node is offered work: it beats, it is online, and it was heard of late."""
    return node.incarnation is not None and node.status is NodeStatus.ONLINE and node.node_id not in silent


def decide_plan_region(view: View, command: PlanRegion, moment: Moment) -> tuple[Event, ...]:
    """A region is planned where there is room for all of it, or not at all."""
    existing_cluster(view)
    if (taken := view.region_ids.get(command.name)) is not None:
        region = view.regions.get(taken)
        assert region is not None, "a name leads to a region"
        raise RegionExists(
            f"a region {command.name!r} exists already and is {region.state}",
            region=command.name,
            state=str(region.state),
        )
    if len(view.regions) >= REGION_NAMES_MAX:
        raise CapacityExceeded(f"the cluster keeps at most {REGION_NAMES_MAX} regions; delete some", free_bytes=0)
    rooms = [_room(node) for node in view.nodes.values() if can_lend(node, moment.silent)]
    chosen = choose_lenders(rooms, command.lenders_max or REGION_LENDERS_MAX)
    stripes = stripes_for(command.size_bytes)
    free_bytes = sum(room.stripes for room in chosen) * STRIPE_BYTES
    if stripes * STRIPE_BYTES > free_bytes:
        raise CapacityExceeded(
            f"region {command.name!r} wants {command.size_bytes} bytes and {free_bytes} are free on "
            f"{len(chosen)} lenders; lend more with `weft node --lend SIZE` on any machine",
            wanted_bytes=command.size_bytes,
            free_bytes=free_bytes,
        )
    return (
        RegionPlanned(
            region_id=moment.region_id(view.regions),
            name=command.name,
            size_bytes=command.size_bytes,
            reserved_bytes=stripes * STRIPE_BYTES,
            layout=plan_layout(chosen, stripes, Generation(1)),
            at_ms=moment.now_ms,
        ),
    )


def decide_confirm_region(view: View, command: ConfirmRegion, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Only a plan turns ready; a report that comes late or twice is no news."""
    region = view.regions.get(command.region_id)
    if region is None or region.state is not RegionState.PLANNED:
        return ()
    return (RegionReady(region_id=region.region_id),)


def decide_fail_region(view: View, command: FailRegion, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Only a plan fails; what was ready loses extents instead."""
    region = view.regions.get(command.region_id)
    if region is None or region.state is not RegionState.PLANNED:
        return ()
    return (RegionFailed(region_id=region.region_id, error=command.error),)


def decide_lose_extents(view: View, command: LoseExtents, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A lender may give up what it holds, in the life it holds it in, and nothing else."""
    region = view.regions.get(command.region_id)
    if region is None or region.state not in USABLE_STATES:
        return ()
    holder = Replica(node_id=command.node_id, incarnation=command.incarnation)
    indices = tuple(
        extent.index
        for extent in region.layout.extents()
        if extent.index in command.indices
        and holder in extent.replicas
        and extent.index not in region.lost_extents
        and region.region_id in (view.holdings.get(command.node_id) or ())
    )
    return (ExtentsLost(region_id=region.region_id, indices=indices, error=command.error),) if indices else ()


def decide_seal_region(view: View, command: SealRegion, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """A region is sealed when nobody can be writing to it. Sealing it again changes nothing."""
    region = usable_region(view, command.name)
    if region.sealed:
        return ()
    writers = [
        attachment.holder
        for attachment_id in region.attachment_ids
        if (attachment := view.attachments.get(attachment_id)) is not None and attachment.mode is Mode.EXCLUSIVE
    ]
    if writers:
        raise RegionInUse(
            f"region {command.name!r} is attached for writing by {', '.join(writers)}; detach it, then seal",
            region=command.name,
            holders=writers,
        )
    return (RegionSealed(region_id=region.region_id),)


def decide_delete_region(view: View, command: DeleteRegion, moment: Moment) -> tuple[Event, ...]:
    """A region goes when nobody is attached, or when the caller insists. Deleting it again changes nothing."""
    region = existing_region(view, command.name)
    if region.state is RegionState.DELETING:
        return ()
    if region.attachment_ids and not command.force:
        raise RegionInUse(
            f"region {command.name!r} has {len(region.attachment_ids)} open attachments; detach them, or use force",
            region=command.name,
            attachments=list(region.attachment_ids),
        )
    events: list[Event] = [
        AttachmentClosed(attachment_id=attachment_id, reason=Closing.REGION_DELETED)
        for attachment_id in region.attachment_ids
    ]
    events.append(RegionDeletionBegun(region_id=region.region_id))
    if not living_holders(view, region, moment.silent):
        events.append(RegionRemoved(region_id=region.region_id))
    return tuple(events)


def decide_finish_region(view: View, command: FinishRegion, moment: Moment) -> tuple[Event, ...]:
    """A region is gone when every lender that can still answer has let go of it."""
    region = view.regions.get(command.region_id)
    if region is None or region.state is not RegionState.DELETING:
        return ()
    if set(living_holders(view, region, moment.silent)) - set(command.released):
        return ()
    return (RegionRemoved(region_id=region.region_id),)


def apply_region_planned(draft: Draft, event: RegionPlanned) -> None:
    """The region is there and charged to its lenders."""
    region = Region(
        region_id=event.region_id,
        name=event.name,
        size_bytes=event.size_bytes,
        reserved_bytes=event.reserved_bytes,
        state=RegionState.PLANNED,
        generation=Generation(0),
        floor=Generation(1),
        sealed=False,
        layout=event.layout,
        attachment_ids=(),
        lost_extents=(),
        error=None,
        created_at_ms=event.at_ms,
    )
    draft.regions.put(event.region_id, region)
    draft.region_ids.put(event.name, event.region_id)
    take_up(draft, region)
    touch_holders(draft, region)


def apply_region_ready(draft: Draft, event: RegionReady) -> None:
    """The region can be used. Its lenders hold what they should already."""
    draft.regions.put(event.region_id, msgspec.structs.replace(_row(draft, event), state=RegionState.READY))


def apply_region_failed(draft: Draft, event: RegionFailed) -> None:
    """The plan is off, and those who began to back it let go."""
    region = msgspec.structs.replace(_row(draft, event), state=RegionState.FAILED, error=event.error)
    draft.regions.put(event.region_id, region)
    touch_holders(draft, region)


def apply_extents_lost(draft: Draft, event: ExtentsLost) -> None:
    """Part of the region is gone."""
    lose(draft, _row(draft, event), event.indices, event.error)


def apply_region_sealed(draft: Draft, event: RegionSealed) -> None:
    """Nobody writes to the region any more."""
    draft.regions.put(event.region_id, msgspec.structs.replace(_row(draft, event), sealed=True))


def apply_region_deletion_begun(draft: Draft, event: RegionDeletionBegun) -> None:
    """The region's lenders are to let go of it."""
    region = msgspec.structs.replace(_row(draft, event), state=RegionState.DELETING)
    draft.regions.put(event.region_id, region)
    touch_holders(draft, region)


def apply_region_removed(draft: Draft, event: RegionRemoved) -> None:
    """The region is gone, its name is free, and its lenders have their room back."""
    region = _row(draft, event)
    put_down(draft, region)
    draft.region_ids.remove(region.name)
    draft.regions.remove(region.region_id)


def _row(
    draft: Draft,
    event: RegionReady | RegionFailed | ExtentsLost | RegionSealed | RegionDeletionBegun | RegionRemoved,
) -> Region:
    region = draft.regions.get(event.region_id)
    assert region is not None, "only a region that is there changes"
    return region


def _room(node: Node) -> Room:
    assert node.incarnation is not None, "only a node that beats lends"
    replica = Replica(node_id=node.node_id, incarnation=node.incarnation)
    return Room(replica=replica, stripes=node.free_bytes // STRIPE_BYTES)


def _is_offline(view: View, node_id: NodeId) -> bool:
    node = view.nodes.get(node_id)
    return node is None or node.status is NodeStatus.OFFLINE
