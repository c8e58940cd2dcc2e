"""The healer: what nodes say of their objects on one side, what they are asked to do about them on the other.

It hears reports and has their meaning decided, keeps what is only an observation (how much room there is, whose list is
complete), and has the core plan whenever the books or the nodes changed. Every node's part of the plan waits for its
next beat, and a beat that waits is answered when its part changed.

What a node holds is believed once it has said all of it to this process: until then it is neither given copies nor
asked to let go of any, and its copies count as the books have them. What the books say it holds and it did not name is
missing. The number under which it is asked is new for each life and each process, so an answer to somebody else's
question never counts as one to ours.

An object that is deleted is let go of wherever it is in the books, and also where it is on its way to: a copy that was
ordered and not reported yet is called back, and stays so until the node has said what became of it.

What if this process dies with a plan under way? Its successor begins a new term, so its generations are higher, asks
every node for its list, and plans from what is there by then.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Final

import msgspec

from weft.api.bodies.beat import CopyOrder, StoreReport, StoreTarget
from weft.coordinator.beats import Beats
from weft.coordinator.roster import Roster
from weft.coordinator.writer import Writer, internal_cause
from weft.core.healing import HealingPlan, Health, RepairBudget, StoreNode, health, is_at_rest, plan
from weft.core.liveness import Standing
from weft.core.ring import Ring
from weft.core.state import Draft
from weft.model.commands import ReportReplicas
from weft.model.events import (
    ClusterDestroyed,
    Event,
    NodeIncarnated,
    NodeRemoved,
    ObjectDeleted,
    ObjectRegistered,
    ReplicaAdded,
    ReplicaRemoved,
)
from weft.model.ids import Generation, Incarnation, NodeId
from weft.model.node import NodeStatus
from weft.model.object import ObjectHash, StoredObject, is_content_hash
from weft.model.policy import DOUBTS_PER_NODE_MAX
from weft.telemetry import Metrics

_TERM_SPAN: Final = 2**32
"""Generations of one term. A JSON number keeps 53 bits, which leaves room for two million terms of four billion."""
_GONE: Final = frozenset({"missing", "corrupt", "dropped"})
_AWAY: Final = frozenset({Standing.OFFLINE, Standing.GONE})
_UNKNOWN: Final = StoreTarget(plan=0, inventory=0)
_NO_RING: Final = Ring()


class _Keeping:
    """What is known of one node's store, in one life of it."""

    __slots__ = ("checks", "free_bytes", "incarnation", "inventory", "listed", "recalled", "target", "used_bytes")

    def __init__(self, incarnation: Incarnation, inventory: int, generation: Generation) -> None:
        self.incarnation = incarnation
        self.inventory = inventory
        self.listed: set[ObjectHash] | None = set()
        self.free_bytes = 0
        self.used_bytes = 0
        self.checks: dict[ObjectHash, None] = {}
        self.recalled: dict[ObjectHash, None] = {}
        self.target = StoreTarget(plan=generation, inventory=inventory)

    @property
    def is_known(self) -> bool:
        """Whether the node has said everything it holds."""
        return self.listed is None


class Healer:
    """Keeps every object where it should be."""

    def __init__(
        self,
        writer: Writer,
        beats: Beats,
        roster: Roster,
        metrics: Metrics,
        budget: RepairBudget = RepairBudget(),  # noqa: B008 — frozen, so sharing it is harmless.
    ) -> None:
        self._writer = writer
        self._beats = beats
        self._roster = roster
        self._budget = budget
        self._keepings: dict[NodeId, _Keeping] = {}
        self._nodes: Mapping[NodeId, StoreNode] = {}
        self._standing: Mapping[NodeId, tuple[bool, bool]] = {}
        self._restless: dict[ObjectHash, None] = {}
        self._awaited: set[ObjectHash] = set()
        self._touched: set[ObjectHash] = set()
        self._all_touched = True
        self._storeless: set[NodeId] = set()
        self._given_out = 0
        self._plan = HealingPlan(generation=Generation(0))
        self._changes = metrics.counter("weft_replicas_total", "Copies gained and lost, by how.", ("change",))
        self._failures = metrics.counter("weft_copies_failed_total", "Copies a node could not make.")
        metrics.gauge("weft_objects", "Objects in the books.", lambda: len(writer.state.objects))
        metrics.gauge(
            "weft_objects_restless", "Objects with more or fewer copies than wanted.", lambda: len(self._restless)
        )
        metrics.gauge(
            "weft_objects_deleting",
            "Deleted objects that nodes have yet to let go of.",
            lambda: self.count(Health.DELETING),
        )
        metrics.gauge("weft_copies_planned", "Copies planned at this moment.", lambda: len(self._plan.copies))

    @property
    def plan(self) -> HealingPlan:
        """What is planned at this moment."""
        return self._plan

    @property
    def nodes(self) -> Mapping[NodeId, StoreNode]:
        """The nodes as planning sees them now."""
        return self._look_at_nodes()

    def count(self, wanted: Health) -> int:
        """How many objects stand so badly. Only restless ones can, and deleted ones whose holders left with a copy."""
        nodes, objects = self._look_at_nodes(), self._writer.state.objects
        self._follow(nodes)
        found = (objects.get(object_hash) for object_hash in self._restless)
        awaited = len(self._awaited) if wanted is Health.DELETING else 0
        return awaited + sum(1 for one in found if one is not None and health(one, nodes) is wanted)

    def restless(self) -> list[ObjectHash]:
        """The objects with more or fewer copies than wanted."""
        self._follow(self._look_at_nodes())
        return list(self._restless)

    async def hear(self, node_id: NodeId, incarnation: Incarnation, said: StoreReport) -> None:
        """Take in what a node says of its objects, and have decided what it means."""
        keeping = self._keepings.get(node_id)
        if keeping is None or keeping.incarnation != incarnation:
            keeping = self._keepings[node_id] = _Keeping(incarnation, self._next(), self._next())
        keeping.free_bytes, keeping.used_bytes = said.free_bytes, said.used_bytes
        is_news = bool(said.findings)
        is_all = False
        held = [ObjectHash(one.hash) for one in said.findings if one.state == "held"]
        gone = [(ObjectHash(one.hash), one.state) for one in said.findings if one.state in _GONE]
        self._failures.add(sum(1 for one in said.findings if one.state == "failed"))
        if keeping.listed is not None and said.inventory == keeping.inventory:
            keeping.listed.update(held)
            keeping.listed.difference_update(object_hash for object_hash, _ in gone)
            if said.complete:
                gone += [(object_hash, "missing") for object_hash in self._unnamed(node_id, keeping.listed)]
                is_news = is_all = True
        for one in said.findings:
            keeping.checks.pop(ObjectHash(one.hash), None)
            if one.state != "held":
                keeping.recalled.pop(ObjectHash(one.hash), None)
            for doubted in one.doubted:
                self.doubt(NodeId(doubted), ObjectHash(one.hash))
        if held or gone:
            command = ReportReplicas(node_id=node_id, incarnation=incarnation, held=tuple(held), gone=tuple(gone))
            await self._writer.submit(command, internal_cause(f"beat:{node_id}"))
        if is_all:
            # Not before: what could not be written now is concluded again when the node says it again.
            keeping.listed = None
        if is_news:
            self.look()
            self._order_again(keeping, said)

    def doubt(self, node_id: NodeId, object_hash: ObjectHash) -> None:
        """Somebody has reason to think that a node's copy is not what the books say; the node is asked to look."""
        keeping = self._keepings.get(node_id)
        if keeping is not None and len(keeping.checks) < DOUBTS_PER_NODE_MAX and is_content_hash(object_hash):
            keeping.checks[object_hash] = None
            self.look()

    def has_news(self, node_id: NodeId, said: StoreReport) -> bool:
        """Whether a node should hear more than it has heard."""
        target = self.target(node_id)
        return target.plan != said.plan or target.inventory != said.inventory

    def target(self, node_id: NodeId) -> StoreTarget:
        """A node's part of the plan."""
        keeping = self._keepings.get(node_id)
        return keeping.target if keeping is not None else _UNKNOWN

    def keeps_nothing(self, node_id: NodeId) -> None:
        """A node said in this life of it that it has no store."""
        self._storeless.add(node_id)

    def passed_over(self, found: StoredObject, but: Set[NodeId], count_max: int) -> Mapping[NodeId, str]:
        """Nodes that could be given an object and cannot be now, and why; no more than so many.

        A node that is away counts unless it said that it keeps nothing, also to a coordinator that has never heard it:
        what is not known is not taken for a smaller cluster. One that is to go does not.
        """
        nodes, reasons = self._look_at_nodes(), dict[NodeId, str]()
        for node in self._writer.state.nodes.values():
            is_out = node.incarnation is None or node.node_id in self._storeless or node.drained
            if is_out or node.node_id in but or node.status is NodeStatus.DRAINING:
                continue
            if len(reasons) >= count_max:
                break
            seen = nodes.get(node.node_id)
            if seen is None:
                reasons[node.node_id] = "it is offline"
            elif not seen.gives:
                reasons[node.node_id] = "it has not been heard for a while"
            elif not seen.takes:
                reasons[node.node_id] = "it has yet to say what it holds"
            elif seen.free_bytes < found.size_bytes:
                reasons[node.node_id] = f"it has room for {seen.free_bytes} bytes"
        return reasons

    def look(self) -> None:
        """Plan anew, and answer the beats of those whose part changed. Looking again changes nothing."""
        nodes = self._look_at_nodes()
        self._follow(nodes)
        urgent = list(self._urgent_first(nodes))
        # The ring is brought up to date when it is asked for, which a look that has nothing to plan need not pay for.
        ring = self._roster.ring if urgent else _NO_RING
        made = plan(urgent, nodes, ring, self._budget, Generation(self._given_out))
        self._plan = made
        copies: dict[NodeId, list[CopyOrder]] = {}
        drops: dict[NodeId, list[str]] = {}
        for copy in made.copies:
            order = CopyOrder(hash=copy.object_hash, size_bytes=copy.size_bytes, sources=list(copy.sources))
            copies.setdefault(copy.target, []).append(order)
        for drop in made.drops:
            drops.setdefault(drop.node_id, []).append(drop.object_hash)
        for node_id, keeping in self._keepings.items():
            dropped = [*keeping.recalled, *(one for one in drops.get(node_id, []) if one not in keeping.recalled)]
            self._aim(node_id, keeping, copies.get(node_id, []), dropped)

    def begin_anew(self) -> None:
        """Another term: what nodes were told in an earlier one, they have since been told anew by somebody else."""
        self._keepings.clear()
        self._all_touched = True

    def on_merged(self, draft: Draft, events: list[Event]) -> None:
        """Note what a batch touched, and forget the stores of nodes and lives that are over."""
        self._touched.update(draft.objects.changed)
        revived = False
        for event in events:
            if isinstance(event, NodeRemoved | NodeIncarnated):
                self._keepings.pop(event.node_id, None)
                self._storeless.discard(event.node_id)
            elif isinstance(event, ClusterDestroyed):
                self._keepings.clear()
                self._storeless.clear()
            elif isinstance(event, ObjectDeleted):
                self._call_back(event.object_hash)
            elif isinstance(event, ObjectRegistered):
                revived = revived or any(drop.object_hash == event.object_hash for drop in self._plan.drops)
                for keeping in self._keepings.values():
                    keeping.recalled.pop(event.object_hash, None)
            elif isinstance(event, ReplicaAdded):
                self._changes.add(1, "added")
            elif isinstance(event, ReplicaRemoved):
                self._changes.add(1, event.reason)
        if revived:
            # Before anybody's beat is answered: who was to let go of it must not hear so any more.
            self.look()

    def _call_back(self, object_hash: ObjectHash) -> None:
        """Have copies of a deleted object that are on their way let go of where they arrive."""
        for copy in self._plan.copies:
            if copy.object_hash == object_hash and (keeping := self._keepings.get(copy.target)) is not None:
                keeping.recalled[object_hash] = None

    def _aim(self, node_id: NodeId, keeping: _Keeping, copies: list[CopyOrder], drops: list[str]) -> None:
        """Give a node its part, under a new generation when it is another one than before."""
        before = keeping.target
        checks = list[str](keeping.checks)
        if (before.copies, before.drops, before.checks) == (copies, drops, checks):
            return
        keeping.target = msgspec.structs.replace(before, plan=self._next(), copies=copies, drops=drops, checks=checks)
        self._beats.answer(node_id)

    def _order_again(self, keeping: _Keeping, said: StoreReport) -> None:
        """An errand that ended and is still to be done is a new errand: the node has put the old one behind it."""
        target = keeping.target
        ordered = {*target.drops, *target.checks, *(copy.hash for copy in target.copies)}
        if any(one.hash in ordered for one in said.findings if one.state != "failed"):
            keeping.target = msgspec.structs.replace(target, plan=self._next())

    def _look_at_nodes(self) -> Mapping[NodeId, StoreNode]:
        """Who is there, by how every reader sees them at this moment."""
        nodes: dict[NodeId, StoreNode] = {}
        for node in self._writer.state.nodes.values():
            standing = self._beats.standing(node)
            if standing in _AWAY:
                continue
            keeping = self._keepings.get(node.node_id)
            heard = keeping is not None and standing in (Standing.ONLINE, Standing.DRAINING)
            stays = standing is not Standing.DRAINING and not node.drained
            nodes[node.node_id] = StoreNode(
                zone=node.zone,
                free_bytes=keeping.free_bytes if keeping is not None else 0,
                counts=stays,
                takes=heard and stays and keeping is not None and keeping.is_known,
                gives=heard,
            )
        return nodes

    def _follow(self, nodes: Mapping[NodeId, StoreNode]) -> None:
        """Bring the list of restless objects up to date: all of them when nodes came or went, else those touched."""
        standing = {node_id: (node.counts, node.takes) for node_id, node in nodes.items()}
        objects = self._writer.state.objects
        if self._all_touched or standing != self._standing:
            self._standing, self._all_touched = standing, False
            self._restless = {one.object_hash: None for one in objects.values() if not is_at_rest(one, nodes)}
            self._awaited = {one.object_hash for one in objects.values() if one.deleting and not one.replicas}
        else:
            for object_hash in self._touched:
                found = objects.get(object_hash)
                if found is not None and found.deleting and not found.replicas:
                    self._awaited.add(object_hash)
                else:
                    self._awaited.discard(object_hash)
                if found is None or is_at_rest(found, nodes):
                    self._restless.pop(object_hash, None)
                else:
                    self._restless[object_hash] = None
        self._touched.clear()

    def _urgent_first(self, nodes: Mapping[NodeId, StoreNode]) -> Iterable[StoredObject]:
        """The restless objects, those with the fewest copies first.

        The order among equals is kept from look to look, so that what is under way stays planned.
        """
        objects = self._writer.state.objects
        found = (objects.get(object_hash) for object_hash in self._restless)
        present = [one for one in found if one is not None]
        present.sort(key=lambda one: sum(1 for node_id in one.replicas if node_id in nodes))
        return present

    def _unnamed(self, node_id: NodeId, named: set[ObjectHash]) -> list[ObjectHash]:
        """What the books say a node holds, or left with, and it did not name when it named everything."""
        return [
            one.object_hash
            for one in self._writer.state.objects.values()
            if (node_id in one.replicas or node_id in one.left) and one.object_hash not in named
        ]

    def _next(self) -> Generation:
        """A number nobody was given before, in this term or an earlier one."""
        ledger = self._writer.state.ledger
        assert ledger is not None, "a ledger is opened before anybody beats"
        self._given_out = max(self._given_out, ledger.term * _TERM_SPAN) + 1
        return Generation(self._given_out)
