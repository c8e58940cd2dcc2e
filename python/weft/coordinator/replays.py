"""The guard against replayed beats, for those who want one: off unless a skew is set.

A heartbeat of the pools door carries its node's own clock, which nobody goes by. With the guard on, that clock has to
be within the skew of this one, and each beat later than the one before; so a beat somebody recorded cannot
keep a dead node alive. What if a node's clock is set back? Its beats are refused until it has passed the last one
again, which is at most twice the skew away, and the refusal says so. What if an answer was lost and the same beat is
sent again? It is refused as well, and the next beat is not.

Beats at Weft's own door need no guard: they name a life of the node, and an ended one is refused.
"""

from datetime import datetime

from weft.coordinator.ports import Clock
from weft.core.state import Draft
from weft.model.errors import BeatReplayed, InvalidField
from weft.model.events import ClusterDestroyed, Event, NodeRemoved
from weft.model.ids import NodeId


class ReplayGuard:
    """Remembers each node's latest timestamp, where a skew is set. With a skew of 0 it lets everything pass."""

    def __init__(self, clock: Clock, skew_ms: int) -> None:
        self._clock = clock
        self._skew_ms = skew_ms
        self._latest_ms: dict[NodeId, int] = {}

    def check(self, node_id: NodeId, timestamp: str | None) -> None:
        """Take note of a beat. Raises `InvalidField` for a time that is none or off, `BeatReplayed` for an old one."""
        if not self._skew_ms:
            return
        at_ms = _parse(node_id, timestamp)
        off_ms = at_ms - self._clock.now_ms()
        if abs(off_ms) > self._skew_ms:
            where = "ahead of" if off_ms > 0 else "behind"
            raise InvalidField(
                f"timestamp: it is {abs(off_ms)} ms {where} the coordinator's clock, {self._skew_ms} ms are allowed;"
                " set the clocks right, or send a beat of now",
                field="timestamp",
                node_id=node_id,
            )
        latest_ms = self._latest_ms.get(node_id)
        if latest_ms is not None and at_ms <= latest_ms:
            raise BeatReplayed(
                f"node {node_id} has already sent a beat of that time or a later one; send a new beat",
                node_id=node_id,
            )
        self._latest_ms[node_id] = at_ms

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Forget the nodes a batch took away."""
        for event in events:
            if isinstance(event, NodeRemoved):
                self._latest_ms.pop(event.node_id, None)
            elif isinstance(event, ClusterDestroyed):
                self._latest_ms.clear()


def _parse(node_id: NodeId, timestamp: str | None) -> int:
    try:
        at = datetime.fromisoformat(timestamp or "")
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidField(
            "timestamp: a beat carries its time as ISO 8601 with a zone, as in 2025-09-30T22:00:00Z",
            field="timestamp",
            node_id=node_id,
        )
    return int(at.timestamp() * 1_000)
