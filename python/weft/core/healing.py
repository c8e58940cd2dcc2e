"""Healing: which copies to make and which to let go of, so that every object is where it should be.

    counted     copies on nodes that are there to stay: neither offline nor draining
    wanted      what the object was registered with
    able        counted copies, and the nodes that could be given one: heard, known to the last object, with room for it

An object is under-replicated when counted < min(wanted, able). One without a copy anybody could read is absent: it is
listed, and never planned for, because there is nothing to copy from. One with more copies than wanted, all of them
certain, may let go of those the ring likes least. One that was deleted lets go of all, wherever they can be heard.

`plan` is a pure function of the books, of what is known of the nodes and of a budget. It is made anew whenever either
changed, and gives the same plan while neither did, so a plan that is late, lost or carried out twice does no harm: a
copy in progress is in the next plan too, a copy that was made is in no further one, and when everything was carried
out, planning again gives nothing.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Final

import msgspec

from weft.core.ring import Ring
from weft.model.ids import Generation, NodeId
from weft.model.object import ObjectHash, StoredObject, is_content_hash
from weft.model.policy import COPIES_PER_NODE_MAX, DROPS_PER_NODE_MAX, READS_PER_NODE_MAX

POSTPONED_MAX: Final = 1_024
"""Objects that wait for a busy node before a plan looks no further: the next plan is made when one of them is done."""


class StoreNode(msgspec.Struct, frozen=True, kw_only=True):
    """What planning knows of a node. One that is offline is not among them at all.

    `counts`: its copies count. `takes`: it may be given copies, and what the books say it holds is certain. `gives`: it
    can be copied from. A node that keeps no objects of ours may count all the same, for the copies it was marked with.
    """

    zone: str
    free_bytes: int = 0
    counts: bool = True
    takes: bool = False
    gives: bool = False


class RepairBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How much healing one node is asked for at a time."""

    copies_per_node: int = COPIES_PER_NODE_MAX
    reads_per_node: int = READS_PER_NODE_MAX
    drops_per_node: int = DROPS_PER_NODE_MAX


class CopyReplica(msgspec.Struct, frozen=True, kw_only=True):
    """Have `target` fetch an object from the first of `sources` that gives it."""

    target: NodeId
    object_hash: ObjectHash
    size_bytes: int
    sources: tuple[NodeId, ...]


class DropReplica(msgspec.Struct, frozen=True, kw_only=True):
    """Have a node let go of a copy that is one too many, or whose object was deleted."""

    node_id: NodeId
    object_hash: ObjectHash


class HealingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything to be done now. Whoever receives a part of it receives the generation, and refuses an older one."""

    generation: Generation
    copies: tuple[CopyReplica, ...] = ()
    drops: tuple[DropReplica, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether everything is where it should be, or nothing can be done about it now."""
        return not self.copies and not self.drops


class Health(StrEnum):
    """How an object stands."""

    HEALTHY = "healthy"
    UNDER_REPLICATED = "under_replicated"
    ABSENT = "absent"
    DELETING = "deleting"


def counted(found: StoredObject, nodes: Mapping[NodeId, StoreNode]) -> list[NodeId]:
    """The nodes whose copies of an object count."""
    return [node_id for node_id in found.replicas if (node := nodes.get(node_id)) is not None and node.counts]


def health(found: StoredObject, nodes: Mapping[NodeId, StoreNode]) -> Health:
    """How an object stands: whether there are as many copies as there could be and should be."""
    if found.deleting:
        return Health.DELETING
    if not any(node_id in nodes for node_id in found.replicas):
        return Health.ABSENT
    there = len(counted(found, nodes))
    if there >= found.replicas_wanted:
        return Health.HEALTHY
    could = any(_may_take(found, node_id, node, node.free_bytes) for node_id, node in nodes.items())
    return Health.UNDER_REPLICATED if could else Health.HEALTHY


def is_at_rest(found: StoredObject, nodes: Mapping[NodeId, StoreNode]) -> bool:
    """Whether an object has exactly the copies it should have, so that no plan can concern it until that changes.

    One that was deleted should have none; those that nodes took along as they left are planned for when they are back.
    """
    if found.deleting:
        return not found.replicas
    return len(counted(found, nodes)) == found.replicas_wanted


def targets(
    found: StoredObject, nodes: Mapping[NodeId, StoreNode], ring: Ring, without: Iterable[NodeId] = ()
) -> list[NodeId]:
    """Where an object that is being put should go: the ring's choice among nodes that hold it or could."""
    barred = {
        node_id
        for node_id, node in nodes.items()
        if not (node.takes and (node_id in found.replicas or node.free_bytes >= found.size_bytes))
    }
    return ring.place(found.object_hash, found.replicas_wanted, barred.union(_outside(ring, nodes), without))


def plan(
    objects: Iterable[StoredObject],
    nodes: Mapping[NodeId, StoreNode],
    ring: Ring,
    budget: RepairBudget,
    generation: Generation,
) -> HealingPlan:
    """The plan for these objects, the most urgent first: what comes first has the budget first."""
    planning = _Planning(nodes, ring, budget)
    for found in objects:
        if found.deleting:
            planning.free(found)
        elif not planning.is_exhausted and is_content_hash(found.object_hash):
            planning.consider(found)
    return HealingPlan(generation=generation, copies=tuple(planning.copies), drops=tuple(planning.drops))


class _Planning:
    """One plan in the making, and what is left of the budget and of everybody's room."""

    def __init__(self, nodes: Mapping[NodeId, StoreNode], ring: Ring, budget: RepairBudget) -> None:
        self.copies: list[CopyReplica] = []
        self.drops: list[DropReplica] = []
        self._nodes = nodes
        self._ring = ring
        self._outside = _outside(ring, nodes)
        self._postponed = 0
        takers = [node_id for node_id, node in nodes.items() if node.takes]
        self._free_bytes = {node_id: nodes[node_id].free_bytes for node_id in takers}
        self._copies_left = dict.fromkeys(takers, budget.copies_per_node)
        self._drops_left = {
            node_id: budget.drops_per_node for node_id, node in nodes.items() if node.takes or node.gives
        }
        self._reads_left = {node_id: budget.reads_per_node for node_id, node in nodes.items() if node.gives}
        self._hands_left = len(takers)

    @property
    def is_exhausted(self) -> bool:
        """Whether to look no further: nobody has budget left, or many objects wait for those who have not."""
        return not self._hands_left or self._postponed >= POSTPONED_MAX

    def consider(self, found: StoredObject) -> None:
        """Plan for one object."""
        there = counted(found, self._nodes)
        if len(there) < found.replicas_wanted:
            self._copy(found, there)
        elif len(there) > found.replicas_wanted:
            self._drop(found)

    def free(self, found: StoredObject) -> None:
        """Have everybody who can be heard let go of an object that is none any more."""
        for node_id in found.replicas:
            if self._drops_left.get(node_id):
                self._let_go(node_id, found)

    def _let_go(self, node_id: NodeId, found: StoredObject) -> None:
        self._drops_left[node_id] -= 1
        self.drops.append(DropReplica(node_id=node_id, object_hash=found.object_hash))

    def _copy(self, found: StoredObject, there: list[NodeId]) -> None:
        sources = [node_id for node_id in found.replicas if node_id in self._reads_left]
        if not sources:
            return
        for target in self._choose(found, there):
            # The least busy source first. The others are named too, for when it does not give.
            sources.sort(key=lambda node_id: (-self._reads_left[node_id], node_id))
            # The ring's choice stands also when it is busy: the object waits for it rather than go elsewhere.
            if not self._copies_left[target] or not self._reads_left[sources[0]]:
                self._postponed += 1
                continue
            self._take(target, found.size_bytes)
            self._reads_left[sources[0]] -= 1
            self.copies.append(
                CopyReplica(
                    target=target,
                    object_hash=found.object_hash,
                    size_bytes=found.size_bytes,
                    sources=tuple(sources),
                )
            )

    def _choose(self, found: StoredObject, there: list[NodeId]) -> list[NodeId]:
        """The nodes to have a copy, as many as are missing: first in zones that have none, then in the ring's order.

        Among the ring's first `wanted` nodes that are in different zones, at most so many zones are taken as there are
        copies, so the first `wanted + holders` of the ring hold all that is needed.
        """
        missing = found.replicas_wanted - len(there)
        barred = {
            node_id
            for node_id, node in self._nodes.items()
            if not _may_take(found, node_id, node, self._free_bytes.get(node_id, 0))
        }
        if len(barred) == len(self._nodes):
            return []
        zones = {self._nodes[node_id].zone for node_id in there}
        listed = self._place(found, found.replicas_wanted + len(there), barred)
        fresh, rest = [], []
        for node_id in listed:
            zone = self._nodes[node_id].zone
            if zone in zones:
                rest.append(node_id)
            else:
                zones.add(zone)
                fresh.append(node_id)
        return (fresh + rest)[:missing]

    def _drop(self, found: StoredObject) -> None:
        """Let go of what the ring likes least, as long as enough copies that are certain remain."""
        certain = [node_id for node_id in found.replicas if self._nodes[node_id].takes] if self._all_here(found) else []
        if len(certain) <= found.replicas_wanted:
            return
        barred = self._nodes.keys() - set(certain)
        kept = self._place(found, found.replicas_wanted, barred)
        for node_id in certain:
            if node_id not in kept and self._drops_left[node_id]:
                self._let_go(node_id, found)

    def _all_here(self, found: StoredObject) -> bool:
        """Whether every node in the books is one we know: who lets go while somebody is away may let go of too much."""
        return all(node_id in self._nodes for node_id in found.replicas)

    def _place(self, found: StoredObject, count: int, barred: AbstractSet[NodeId]) -> list[NodeId]:
        """The ring's order among the nodes that are not barred."""
        return self._ring.place(found.object_hash, count, barred | self._outside)

    def _take(self, target: NodeId, size_bytes: int) -> None:
        self._free_bytes[target] -= size_bytes
        self._copies_left[target] -= 1
        if not self._copies_left[target]:
            self._hands_left -= 1


def _may_take(found: StoredObject, node_id: NodeId, node: StoreNode, free_bytes: int) -> bool:
    """Whether a node could be given a copy it does not have."""
    return node.takes and node_id not in found.replicas and free_bytes >= found.size_bytes


def _outside(ring: Ring, nodes: Mapping[NodeId, StoreNode]) -> frozenset[NodeId]:
    """The members of the ring that planning leaves out."""
    return frozenset(member.node_id for member in ring.members() if member.node_id not in nodes)
