"""The chronicle: what happened to nodes, told in the log and in numbers, by the names of the node seed.

Lines carry the node, its machine, and where somebody asked for it the request and correlation ids. Labels are bounded
by what is registered: an id nobody registered counts as "unknown", and a node that leaves takes its series along.
"""

from collections.abc import Callable, Mapping
from typing import Any

from weft.coordinator.beats import Beats
from weft.coordinator.observations import Observations
from weft.core.liveness import Standing
from weft.core.state import Draft, State
from weft.model.events import (
    Event,
    NodeAppeared,
    NodeDrained,
    NodeIncarnated,
    NodeLost,
    NodeRemoved,
    NodeResumed,
    NodeReturned,
)
from weft.model.ids import NodeId
from weft.serve import Call
from weft.telemetry import Labels, Log, Metrics

UNKNOWN = "unknown"


class Chronicle:
    """Tells of nodes. `state` gives the merged state, `beats` how long ago each was heard."""

    def __init__(
        self, state: Callable[[], State], beats: Beats, observations: Observations, log: Log, metrics: Metrics
    ) -> None:
        self._state = state
        self._beats = beats
        self._observations = observations
        self._log = log
        self._registrations = metrics.counter(
            "orchd_node_registrations_total", "Registrations at the pools door, by outcome.", ("outcome",)
        )
        self._heartbeats = metrics.counter(
            "orchd_node_heartbeats_total", "Beats at any door, by node and outcome.", ("node_id", "outcome")
        )
        self._deregistrations = metrics.counter(
            "orchd_node_deregistrations_total", "Deregistrations at the pools door, by outcome.", ("outcome",)
        )
        metrics.gauges("orchd_nodes", "Nodes by where they stand.", ("status",), self._by_standing)
        metrics.gauges(
            "orchd_node_heartbeat_age_ms", "How long ago each watched node was heard.", ("node_id",), self._ages
        )
        metrics.gauges(
            "orchd_pool_slots_free", "Free slots, as last reported.", ("node_id", "pool_id"), lambda: self._slots(True)
        )
        metrics.gauges(
            "orchd_pool_slots", "Slots, as last reported.", ("node_id", "pool_id"), lambda: self._slots(False)
        )

    def count(self, operation: str, node_id: str | None, outcome: str) -> None:
        """Count how a call ended."""
        if operation == "heartbeat":
            known = node_id is not None and node_id in self._state().nodes
            self._heartbeats.add(1, node_id if known and node_id is not None else UNKNOWN, outcome)
        elif operation == "registration":
            self._registrations.add(1, outcome)
        elif operation == "deregistration":
            self._deregistrations.add(1, outcome)

    def tell(self, what: str, node_id: NodeId, call: Call, **fields: Any) -> None:
        """Say what a call did to a node, and whose call it was."""
        self._log.info(
            what,
            node_id=node_id,
            request_id=call.request_id,
            correlation_id=call.correlation_id,
            by=call.identity,
            **fields,
        )

    def on_merged(self, draft: Draft, events: list[Event]) -> None:
        """Say what time and beats did."""
        for event in events:
            match event:
                case NodeAppeared() | NodeIncarnated() | NodeReturned():
                    self._log.info("node online", **self._about(draft, event.node_id))
                case NodeLost():
                    age_ms = self._beats.silence_ms(event.node_id)
                    self._log.warning("node offline", age_ms=age_ms, **self._about(draft, event.node_id))
                case NodeDrained():
                    self._log.info("node drained", **self._about(draft, event.node_id))
                case NodeResumed():
                    self._log.info("node resumed", **self._about(draft, event.node_id))
                case NodeRemoved():
                    self._log.info("node gone", node_id=event.node_id)
                    self._heartbeats.forget(0, event.node_id)

    def _about(self, draft: Draft, node_id: NodeId) -> dict[str, Any]:
        node = draft.nodes.get(node_id)
        engines = node.engines if node is not None else None
        return {"node_id": node_id, "machine_id": engines.machine_id if engines is not None else None}

    def _by_standing(self) -> Mapping[Labels, float]:
        counts: dict[Labels, float] = {(standing.value,): 0 for standing in Standing if standing is not Standing.GONE}
        for node in self._state().nodes.values():
            counts[(self._beats.standing(node).value,)] += 1
        return counts

    def _ages(self) -> Mapping[Labels, float]:
        ages = ((node_id, self._beats.silence_ms(node_id)) for node_id in self._state().nodes.keys())  # noqa: SIM118
        return {(node_id,): age_ms for node_id, age_ms in ages if age_ms is not None}

    def _slots(self, free: bool) -> Mapping[Labels, float]:
        """The slots of each pool, those of all its replicas together."""
        found: dict[Labels, float] = {}
        for node_id, pools in self._observations.pools.items():
            for pool in pools.values():
                labels = (node_id, pool.pool_id)
                found[labels] = found.get(labels, 0) + (pool.slots_free if free else pool.slots_total)
        return found
