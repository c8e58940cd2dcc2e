"""Objects over HTTP: registering them, saying where they are, marking copies, listing what is short of some."""

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from weft.api.bodies.object import ObjectInfo, ObjectList, ObjectState, ObjectTargets
from weft.api.bodies.storage import Done
from weft.coordinator.causes import cause_of
from weft.coordinator.healer import Healer
from weft.coordinator.roster import Roster
from weft.coordinator.writer import Writer
from weft.core.healing import Health, StoreNode, health, targets
from weft.core.object import existing_object
from weft.model.commands import DeleteObject, MarkHealed, MarkMissing, RegisterObject
from weft.model.ids import NodeId, parse_node_id
from weft.model.object import ObjectHash, StoredObject, parse_object_hash
from weft.serve import Call

_STATES: Final[Mapping[Health, ObjectState]] = {
    Health.HEALTHY: "healthy",
    Health.UNDER_REPLICATED: "under_replicated",
    Health.ABSENT: "absent",
}
"""How what is shown stands. A deleted object is not shown."""


class Objects:
    """Answers for objects and their copies."""

    def __init__(self, writer: Writer, healer: Healer, roster: Roster) -> None:
        self._writer = writer
        self._healer = healer
        self._roster = roster

    async def register(self, call: Call) -> Done:
        """POST /object/register."""
        body = call.body
        command = RegisterObject(
            object_hash=parse_object_hash(body.hash), size_bytes=body.size, replicas_wanted=body.rf
        )
        await self._writer.submit(command, cause_of(call))
        return Done()

    async def delete(self, call: Call) -> Done:
        """DELETE /object/{hash}. Nobody is told of it from here on; its holders hear of it in their beats."""
        command = DeleteObject(object_hash=parse_object_hash(call.path["hash"]))
        await self._writer.submit(command, cause_of(call))
        self._healer.look()
        return Done()

    async def show(self, call: Call) -> ObjectInfo:
        """GET /object/{hash}."""
        found = existing_object(self._writer.state, parse_object_hash(call.path["hash"]))
        return _info(found, self._healer.nodes)

    async def show_targets(self, call: Call) -> ObjectTargets:
        """GET /objects/{hash}/targets."""
        found = existing_object(self._writer.state, parse_object_hash(call.path["hash"]))
        without = [parse_node_id(node_id, "without") for node_id in call.query.without.split(",") if node_id]
        chosen = targets(found, self._healer.nodes, self._roster.ring, without)
        few = found.replicas_wanted - len(chosen)
        passed_over = self._healer.passed_over(found, {*chosen, *without}, few) if few > 0 else {}
        reasons = {str(node_id): why for node_id, why in passed_over.items()}
        return ObjectTargets(hash=found.object_hash, targets=list(chosen), passed_over=reasons)

    async def mark_missing(self, call: Call) -> Done:
        """POST /replica/mark_missing. A node that keeps objects of ours is asked to look whether it is so."""
        object_hash, node_id = parse_object_hash(call.body.hash), parse_node_id(call.body.node_id)
        await self._writer.submit(MarkMissing(object_hash=object_hash, node_id=node_id), cause_of(call))
        self._healer.doubt(node_id, object_hash)
        return Done()

    async def mark_healed(self, call: Call) -> Done:
        """POST /replica/mark_healed. Likewise."""
        object_hash, node_id = parse_object_hash(call.body.hash), parse_node_id(call.body.node_id)
        await self._writer.submit(MarkHealed(object_hash=object_hash, node_id=node_id), cause_of(call))
        self._healer.doubt(node_id, object_hash)
        return Done()

    async def show_all(self, call: Call) -> ObjectList:
        """GET /objects, a page of them."""
        query, nodes = call.query, self._healer.nodes
        objects = self._writer.state.objects
        wanted = {Health.UNDER_REPLICATED} if query.under_replicated else set[Health]()
        wanted |= {Health.ABSENT} if query.absent else set()
        # Only an object that has more or fewer copies than wanted can be short of some.
        found: Iterable[StoredObject | None] = (
            (objects.get(one) for one in self._healer.restless()) if wanted else objects.values()
        )
        after = ObjectHash(query.after)
        listed = (
            one
            for one in found
            if one is not None
            and not one.deleting
            and one.object_hash > after
            and (not wanted or health(one, nodes) in wanted)
        )
        deleting = self._healer.count(Health.DELETING)
        page = heapq.nsmallest(query.limit + 1, listed, key=_by_hash)
        return ObjectList(
            objects=[_info(one, nodes) for one in page[: query.limit]],
            next=page[query.limit - 1].object_hash if len(page) > query.limit else None,
            total=len(objects) - deleting,
            under_replicated=self._healer.count(Health.UNDER_REPLICATED),
            absent=self._healer.count(Health.ABSENT),
            deleting=deleting,
            healing=len(self._healer.plan.copies),
            stores=sum(1 for node in nodes.values() if node.takes),
        )


def _info(found: StoredObject, nodes: Mapping[NodeId, StoreNode]) -> ObjectInfo:
    return ObjectInfo(
        hash=found.object_hash,
        size=found.size_bytes,
        replicas=[node_id for node_id in found.replicas if node_id in nodes],
        rf=found.replicas_wanted,
        state=_STATES[health(found, nodes)],
        offline=[node_id for node_id in found.replicas if node_id not in nodes],
    )


def _by_hash(found: StoredObject) -> ObjectHash:
    return found.object_hash
