"""The roster: who is in the cluster as placement sees it, and who is given no work.

The ring is kept from one question to the next and follows the log: a batch only notes which nodes it touched, and the
next question brings the ring up to date with those. So it is made once for each version of who is in the cluster, and
a thousand nodes that join between two questions cost one pass over the points and not a thousand.

The ring itself is a function of the log alone, the same for every reader of it. That a node is silent is not in the
log; it is laid over the ring here, when a question is answered, so that a node which has stopped is offered nothing
even before the sweep has said so.
"""

from collections.abc import Callable, Mapping
from typing import Final

from weft.core.liveness import Verdict
from weft.core.ring import Member, Ring, describe_member
from weft.core.state import Draft, State
from weft.model.events import Event
from weft.model.ids import NodeId
from weft.model.node import Node, NodeStatus
from weft.model.policy import RING_UNIT_GB

SILENT: Final = "the node is not heard"
DOUBTED: Final = "the node is not heard, like most others; that is doubted for a while"
OFFLINE: Final = "the node is offline"
DRAINING: Final = "the node is draining"
JOINING: Final = "the node has registered and was not heard yet"
LOST_REASONS: Final = frozenset({SILENT, OFFLINE})
"""The reasons that mean that what runs on the node is gone. A draining node finishes what it began, and a node whose
silence is doubted may be working on."""

_REBUILD_SHARE: Final = 16
"""Where more than one member in so many has changed, one pass over all points is cheaper than a merge for each."""


class Roster:
    """Keeps the ring, and the reasons for which nodes are set aside."""

    def __init__(self, verdict: Callable[[], Verdict]) -> None:
        self._verdict = verdict
        self._state = State()
        self._ring = Ring()
        self._resting: dict[NodeId, str] = {}
        self._changed: set[NodeId] = set()

    def attend(self, state: State) -> None:
        """Begin with what the log has led to."""
        self._state = state
        self._resting = {node.node_id: why for node in state.nodes.values() if (why := _rest(node)) is not None}
        self._changed = set(state.nodes.keys())

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Note what a batch touched."""
        for node_id in draft.nodes.changed:
            node = draft.nodes.get(node_id)
            why = _rest(node) if node is not None else None
            if why is not None:
                self._resting[node_id] = why
            else:
                self._resting.pop(node_id, None)
            self._changed.add(node_id)

    @property
    def ring(self) -> Ring:
        """The ring as the merged state has it."""
        if self._changed:
            self._ring = self._follow(self._changed)
            self._changed = set()
        return self._ring

    def aside(self) -> Mapping[NodeId, str]:
        """The nodes that are given no work now, each with the reason."""
        lost, doubted = self._verdict()
        if not lost and not doubted:
            return self._resting
        return {**dict.fromkeys(lost, SILENT), **dict.fromkeys(doubted, DOUBTED), **self._resting}

    def _follow(self, changed: set[NodeId]) -> Ring:
        ledger = self._state.ledger
        unit_gb = ledger.policy.ring_unit_gb if ledger is not None else RING_UNIT_GB
        now: dict[NodeId, Member | None] = {}
        for node_id in changed:
            node = self._state.nodes.get(node_id)
            member = describe_member(node, unit_gb) if node is not None else None
            if member != self._ring.member(node_id):
                now[node_id] = member
        if len(now) * _REBUILD_SHARE > len(self._ring):
            return self._ring.changed(now)
        ring = self._ring
        for node_id, member in now.items():
            ring = ring.without(node_id) if member is None else ring.with_member(member)
        return ring


def _rest(node: Node) -> str | None:
    """Why the log says that a node is given no work, or None."""
    if node.status is NodeStatus.OFFLINE:
        return OFFLINE
    if node.drained or node.status is NodeStatus.DRAINING:
        return DRAINING
    if node.status is NodeStatus.JOINING:
        return JOINING
    return None
