"""Bindings: the engines that are ready, each with the adapter that speaks to it.

A binding is {pool, replica, url, bound_at}. It is made when a pool is ready and says where its engine answers, kept for
as long as it says the same, made anew when the engine moves, and dropped when the pool is no longer ready or its node
no longer there. Binding what is bound changes nothing, so it does not matter how often a pool says that it is ready.

In the cloud profile pools are what nodes say in their beats; in the home profile they are the handoff files beside the
coordinator, which belong to no node (`None`).
"""

from collections.abc import Iterable, Mapping

import msgspec

from weft.coordinator.ports import Clock
from weft.core.state import Draft
from weft.model.events import ClusterDestroyed, Event, NodeIncarnated, NodeLost, NodeRemoved
from weft.model.ids import NodeId
from weft.model.pool import PoolSnapshot, Seat
from weft.telemetry import Log


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter bound to an engine."""

    pool_id: str
    replica_id: str
    url: str
    bound_at_ms: int


class Bindings:
    """What is bound now, by node."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._bound: dict[NodeId | None, dict[Seat, Binding]] = {}

    def see(self, node_id: NodeId | None, pools: Iterable[PoolSnapshot]) -> None:
        """A node, or the machine of the coordinator, described all its pools: bind and unbind accordingly."""
        wanted = {pool.seat: pool.url for pool in pools if pool.is_open and pool.url is not None}
        bound = self._bound.get(node_id) or {}
        kept = {seat: binding for seat, binding in bound.items() if wanted.get(seat) == binding.url}
        for seat, binding in bound.items():
            if seat not in kept:
                self._log.info("adapter unbound", **_fields(node_id, binding))
        for seat, url in wanted.items():
            if seat not in kept:
                kept[seat] = Binding(pool_id=seat[0], replica_id=seat[1], url=url, bound_at_ms=self._clock.now_ms())
                self._log.info("adapter bound", **_fields(node_id, kept[seat]))
        if kept:
            self._bound[node_id] = kept
        else:
            self._bound.pop(node_id, None)

    def of(self, node_id: NodeId | None) -> list[Binding]:
        """A node's bindings, in order of pool and replica."""
        bound = self._bound.get(node_id) or {}
        return [bound[seat] for seat in sorted(bound)]

    @property
    def owners(self) -> Mapping[NodeId | None, object]:
        """Who has bindings at all."""
        return self._bound

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """A node that is lost, gone or begun anew is spoken to by nobody."""
        for event in events:
            if isinstance(event, NodeLost | NodeRemoved | NodeIncarnated):
                self.see(event.node_id, ())
            elif isinstance(event, ClusterDestroyed):
                for node_id in [owner for owner in self._bound if owner is not None]:
                    self.see(node_id, ())


def _fields(node_id: NodeId | None, binding: Binding) -> dict[str, str | None]:
    return {"node_id": node_id, "pool": binding.pool_id, "replica": binding.replica_id, "url": binding.url}
