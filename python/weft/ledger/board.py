"""The board: one immutable snapshot of how availability stands, published whole, and who is told of a new one.

Routing, status, health, readiness and the router itself read this and nothing else, so no two of them can disagree.
Whoever learns something hands it in; the board has `core.failover` say what it means and publishes the result.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from weft.core.failover import ACTIVE, begin, observe, reconcile
from weft.ledger.layer import LayerHealth
from weft.model.availability import FALLBACKS, Role, Standing, Thresholds, Watched
from weft.telemetry import Log, Metrics


class Clock(Protocol):
    """Two times: one that people read and may jump, one that only grows and measures."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds from some start."""
        ...


class LayerView(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as it was last seen. `health` is None before the first check."""

    role: Role
    name: str
    health: LayerHealth | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """How availability stands, at one moment. `unshipped` counts batches that are committed and in no layer yet."""

    watched: Watched
    layers: Mapping[Role, LayerView]
    pending: int
    stuck: int
    unshipped: int = 0
    since_ms: int
    last_fallback_at_ms: int | None = None
    failover_count: int = 0
    reconciliation_count: int = 0

    @property
    def standing(self) -> Standing:
        """The one word for it."""
        return self.watched.standing

    @property
    def active(self) -> Role | None:
        """The layer that takes writes."""
        return ACTIVE[self.watched.standing]

    @property
    def active_health(self) -> LayerHealth | None:
        """What the last check of that layer found."""
        return None if self.active is None else self.layers[self.active].health

    @property
    def is_on_fallback(self) -> bool:
        """Whether writes go to another layer than the primary."""
        return self.active in FALLBACKS

    @property
    def fallback(self) -> Role | None:
        """The fallback that would take a write now."""
        if self.watched.secondary:
            return Role.SECONDARY
        return Role.EMERGENCY if self.watched.emergency else None

    @property
    def unconfirmed(self) -> int:
        """Everything the primary is not known to hold."""
        return self.pending + self.unshipped

    def is_healthy(self, role: Role) -> bool:
        """Whether a layer is there and passed its last check."""
        return bool(getattr(self.watched, role.value))


class Board:
    """Where the snapshot hangs."""

    def __init__(
        self,
        names: Mapping[Role, str],
        thresholds: Thresholds,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        *,
        pending: int,
        stuck: int,
    ) -> None:
        self._thresholds = thresholds
        self._clock = clock
        self._log = log
        self._waiting: set[asyncio.Future[None]] = set()
        watched = begin(
            secondary=False if Role.SECONDARY in names else None,
            emergency=False if Role.EMERGENCY in names else None,
            has_pending=pending > 0,
        )
        self.now = Routing(
            watched=watched,
            layers={role: LayerView(role=role, name=name) for role, name in names.items()},
            pending=pending,
            stuck=stuck,
            since_ms=clock.now_ms(),
            failover_count=int(watched.standing is not Standing.HEALTHY),
        )
        self._checks = metrics.counter(
            "weft_layer_checks_total", "Checks of availability layers, by role and finding.", ("role", "health")
        )
        self._failovers = metrics.counter("weft_failovers_total", "Times that writes left the primary layer.")
        metrics.gauge(
            "weft_pending_blobs", "Blobs the primary layer is not known to hold.", lambda: self.now.unconfirmed
        )
        metrics.gauge("weft_stuck_blobs", "Pending blobs only a person has tried again.", lambda: self.now.stuck)

    def observe(self, role: Role, health: LayerHealth) -> None:
        """A layer was checked."""
        self._checks.add(1, role.value, health.value)
        before = self.now
        watched = observe(before.watched, role, health is not LayerHealth.UNAVAILABLE, self._thresholds)
        seen = replace(before.layers[role], health=health)
        self._publish(replace(before, watched=watched, layers={**before.layers, role: seen}))

    def count_pending(self, pending: int, stuck: int) -> None:
        """The pending list is so long now."""
        self._publish(replace(self.now, pending=pending, stuck=stuck))

    def count_unshipped(self, unshipped: int) -> None:
        """So many batches are committed and in no layer."""
        if unshipped != self.now.unshipped:
            self._publish(replace(self.now, unshipped=unshipped))

    def reconcile(self) -> None:
        """The primary holds everything that was pending."""
        before = self.now
        watched = reconcile(before.watched)
        if watched is not before.watched:
            count = before.reconciliation_count + 1
            self._publish(replace(before, watched=watched, reconciliation_count=count))

    async def change(self, timeout_s: float | None = None, *others: "asyncio.Future[Any]") -> None:
        """Wait for the next snapshot, or until another future is done, or so long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait({future, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(future)

    async def until(self, holds: Callable[[Routing], bool]) -> None:
        """Wait for a snapshot of which something holds."""
        while not holds(self.now):
            await self.change()

    def _publish(self, after: Routing) -> None:
        before = self.now
        if after.standing is not before.standing:
            after = self._note_move(before, after)
        self.now = after
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _note_move(self, before: Routing, after: Routing) -> Routing:
        now_ms = self._clock.now_ms()
        self._log.warning(
            "availability changed",
            before=before.standing.value,
            after=after.standing.value,
            layer=after.active,
            pending=after.unconfirmed,
        )
        after = replace(after, since_ms=now_ms)
        if after.is_on_fallback and not before.is_on_fallback:
            after = replace(after, last_fallback_at_ms=now_ms)
        if before.standing is Standing.WARNING and after.standing not in (Standing.HEALTHY, Standing.WARNING):
            self._failovers.add()
            after = replace(after, failover_count=after.failover_count + 1)
        return after
