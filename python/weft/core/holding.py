"""Holdings: which node holds what, and since when it should.

Three things a node's present life has to do with are kept in step here: `holdings` (the regions it has extents of),
`reserved_bytes` (what those come to), and `generation` (the sequence number of the last event that changed what it
should hold). A generation made from the log's own count only grows, also when a node leaves and comes back, so no
answer given to an earlier membership can pass for one to the present.
"""

import msgspec

from weft.core.state import Draft, View
from weft.model.ids import Generation, NodeId, RegionId
from weft.model.region import Extent, Region, RegionState

HELD_STATES = frozenset({RegionState.PLANNED, RegionState.READY, RegionState.DAMAGED})
"""The states in which lenders are to hold a region's extents. In the others they are to let go of them."""


class HeldExtent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what a node should hold."""

    region: Region
    extent: Extent


def target_generation(view: View, node_id: NodeId) -> Generation:
    """The version of what a node should know: its own extents, and how to reach everybody."""
    node = view.nodes.get(node_id)
    own = node.generation if node is not None else Generation(0)
    return max(own, view.marks.endpoints_generation)


def target_extents(view: View, node_id: NodeId) -> list[HeldExtent]:
    """What a node should hold, in order of region and index."""
    wanted: list[HeldExtent] = []
    for region_id in view.holdings.get(node_id) or ():
        region = view.regions.get(region_id)
        if region is None or region.state not in HELD_STATES:
            continue
        wanted.extend(
            HeldExtent(region=region, extent=extent)
            for extent in region.layout.extents_of(node_id)
            if extent.index not in region.lost_extents
        )
    return wanted


def holders(view: View, region: Region) -> list[NodeId]:
    """The nodes that hold a part of a region in the life they were planned in, in order of id."""
    nodes = {replica.node_id for replica in region.layout.lenders()}
    return sorted(node_id for node_id in nodes if region.region_id in (view.holdings.get(node_id) or ()))


def touch(draft: Draft, node_id: NodeId) -> None:
    """Say that what a node should hold has changed."""
    node = draft.nodes.get(node_id)
    if node is not None:
        draft.nodes.put(node_id, msgspec.structs.replace(node, generation=Generation(draft.marks.sequence)))


def touch_holders(draft: Draft, region: Region) -> None:
    """Say so to every holder of a region."""
    for node_id in holders(draft, region):
        touch(draft, node_id)


def take_up(draft: Draft, region: Region) -> None:
    """Charge a newly planned region to its lenders."""
    for replica in region.layout.lenders():
        held = draft.holdings.get(replica.node_id) or ()
        draft.holdings.put(replica.node_id, tuple(sorted((*held, region.region_id))))
        _charge(draft, replica.node_id, sum(extent.size_bytes for extent in region.layout.extents_of(replica.node_id)))


def put_down(draft: Draft, region: Region) -> None:
    """Take a region that is gone off its holders."""
    for node_id in holders(draft, region):
        held = draft.holdings.get(node_id) or ()
        _set_holdings(draft, node_id, tuple(other for other in held if other != region.region_id))
        _charge(
            draft,
            node_id,
            -sum(
                extent.size_bytes
                for extent in region.layout.extents_of(node_id)
                if extent.index not in region.lost_extents
            ),
        )


def lose(draft: Draft, region: Region, indices: tuple[int, ...], error: str) -> None:
    """Note extents as lost. A region that was only planned has lost nothing but its chance, and fails."""
    fresh = [index for index in indices if index not in region.lost_extents]
    state, failure = region.state, region.error
    if state is RegionState.PLANNED:
        state, failure = RegionState.FAILED, error
    elif state is RegionState.READY:
        state = RegionState.DAMAGED
    changed = msgspec.structs.replace(
        region, state=state, error=failure, lost_extents=tuple(sorted((*region.lost_extents, *fresh)))
    )
    draft.regions.put(region.region_id, changed)
    for extent in region.layout.extents():
        if extent.index in fresh:
            _release_replicas(draft, region, extent)
    touch_holders(draft, changed)


def lose_holdings(draft: Draft, node_id: NodeId, error: str) -> None:
    """Everything an ended life of a node held is lost. Its row already says that the life has ended, or is gone."""
    region_ids = draft.holdings.get(node_id) or ()
    draft.holdings.remove(node_id)
    for region_id in region_ids:
        region = draft.regions.get(region_id)
        assert region is not None, "a holding names a region that is there"
        gone = tuple(extent.index for extent in region.layout.extents_of(node_id) if _is_lost(draft, extent))
        lose(draft, region, gone, error)


def _is_lost(draft: Draft, extent: Extent) -> bool:
    """Whether no replica of an extent is held by the life it was placed on."""
    for replica in extent.replicas:
        node = draft.nodes.get(replica.node_id)
        if node is not None and node.incarnation == replica.incarnation:
            return False
    return True


def _release_replicas(draft: Draft, region: Region, extent: Extent) -> None:
    """Take a lost extent's bytes off those of its holders that still live."""
    for replica in extent.replicas:
        if region.region_id in (draft.holdings.get(replica.node_id) or ()):
            _charge(draft, replica.node_id, -extent.size_bytes)


def _set_holdings(draft: Draft, node_id: NodeId, held: tuple[RegionId, ...]) -> None:
    if held:
        draft.holdings.put(node_id, held)
    else:
        draft.holdings.remove(node_id)


def _charge(draft: Draft, node_id: NodeId, size_bytes: int) -> None:
    node = draft.nodes.get(node_id)
    if node is not None:
        reserved = node.reserved_bytes + size_bytes
        draft.nodes.put(node_id, msgspec.structs.replace(node, reserved_bytes=reserved))
