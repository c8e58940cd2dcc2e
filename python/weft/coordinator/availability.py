"""Availability, put together: layers behind meters, the board, the monitor, the router, the reconciler, the shipper.

With no layer configured none of this exists, and a write waits for the journal alone. `begin` comes after the log was
followed and before anybody is served, `stop` after the writer wrote its last batch.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from weft.coordinator.homenote import HomeNote
from weft.coordinator.ports import Clock
from weft.coordinator.shipping import Shipper
from weft.ledger import Journal, SharedJournal
from weft.ledger.board import Board
from weft.ledger.consistency import Consistency, compare
from weft.ledger.envelope import NO_CLUSTER
from weft.ledger.layer import Commitment, Layer, commit_to
from weft.ledger.meter import MeteredLayer
from weft.ledger.monitor import Monitor
from weft.ledger.parts import every_cut, find_blob, wrap_batch
from weft.ledger.pending import PendingList
from weft.ledger.proven import ProvenLayer
from weft.ledger.reconciler import Reconciler
from weft.ledger.router import Placed, Router, choose_active
from weft.model.availability import AvailabilityPolicy, PendingBlob, Role
from weft.model.batch import SealedBatch
from weft.model.errors import Failed, JournalFailed
from weft.model.ids import ClusterId, Position
from weft.model.policy import AVAILABLE_MS_MAX, CONSISTENCY_BATCHES_MAX, DRAIN_MS_MAX
from weft.receipts import SigningKey
from weft.telemetry import Log, Metrics


class Availability:
    """The availability of one coordinator's log. `layers` has a primary at least."""

    def __init__(
        self,
        layers: Mapping[Role, Layer],
        directory: Path | None,
        journal: Journal,
        key: SigningKey,
        policy: AvailabilityPolicy,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        *,
        shared: SharedJournal | None = None,
        available_ms_max: int = AVAILABLE_MS_MAX,
        finish_ms_max: int = DRAIN_MS_MAX // 2,
    ) -> None:
        """`shared` is the journal once more where other coordinators reach it."""
        assert Role.PRIMARY in layers, "what is a fallback falls back from something"
        self._key = key
        self._journal = journal
        self._cluster_id = NO_CLUSTER
        self._finish_ms_max = finish_ms_max
        self.pending = PendingList(directory)
        self.layers = {
            role: MeteredLayer(layer if role is Role.PRIMARY else ProvenLayer(layer)) for role, layer in layers.items()
        }
        names = {role: layer.name for role, layer in layers.items()}
        counts = {"pending": self.pending.count, "stuck": self.pending.stuck_count}
        self.board = Board(names, policy.thresholds, clock, log, metrics, **counts)
        self.monitor = Monitor(self.layers, self.board, policy.thresholds, policy.interval_ms, log)
        self.router = Router(self.layers, self.board, self.pending, clock, self.monitor.hurry, log)
        self.reconciler = Reconciler(
            self.router,
            self.board,
            self.pending,
            policy.reconcile,
            clock,
            log,
            metrics,
            lambda: self.monitor.look(Role.PRIMARY),
            self._recall,
            self._is_of_log,
        )
        self.shipper = Shipper(
            self.router,
            self.board,
            self.reconciler,
            self.pending,
            journal,
            self._wrap,
            policy,
            log,
            metrics,
            home=None if shared is None else HomeNote(shared, names[Role.PRIMARY], log),
            available_ms_max=available_ms_max,
        )
        metrics.gauges(
            "weft_layer_requests", "Requests to availability layers, by role and kind.", ("role", "kind"), self._counted
        )
        self._task: asyncio.Task[None] | None = None

    async def begin(self, position: Position, cluster_id: ClusterId) -> "asyncio.Task[None]":
        """Look at every layer once, then begin to ship. The task that is returned ends only by failing."""
        self._cluster_id = cluster_id
        await self.shipper.begin(position, cluster_id)
        await self.monitor.look_at_all()
        self._task = asyncio.create_task(self._run(), name="availability")
        return self._task

    async def stop(self) -> None:
        """Ship what can be shipped in time, and let go of layers and the list."""
        if self._task is not None:
            if not self._task.done():
                await self.shipper.finish(self._finish_ms_max)
            self._task.cancel()
            await asyncio.wait({self._task})
        for layer in self.layers.values():
            await layer.close()
        await self.pending.close()

    async def post(self, blob: bytes) -> Placed:
        """Have a layer keep a blob that is no batch, in time or not at all. Raises `LayerFailed`."""
        return await self.router.store(blob, choose_active, within_ms=AVAILABLE_MS_MAX)

    async def compare(self) -> Consistency:
        """The consistency report: bytes on both sides, and the end of the log in the primary."""
        newest = await self.shipper.newest(CONSISTENCY_BATCHES_MAX)
        waiting = {blob.position for blob in await self.pending.read(0, CONSISTENCY_BATCHES_MAX)}
        batches = [
            ([commit_to(blob) for blob in cut] for cut in every_cut(self._key, sealed, self.router.blob_bytes_max))
            for sealed in newest
            if sealed.batch.position not in waiting
        ]
        return await compare(self.router, self.pending, batches)

    def _counted(self) -> dict[tuple[str, ...], float]:
        return {
            (role.value, kind): float(getattr(layer.counts, f"{kind}_count"))
            for role, layer in self.layers.items()
            for kind in ("post", "get", "error", "health_check", "retry")
        }

    def _wrap(self, sealed: SealedBatch) -> list[bytes]:
        return wrap_batch(self._key, sealed, self.router.blob_bytes_max)

    async def _recall(self, position: Position, commitment: Commitment | None) -> list[bytes]:
        """A blob of a batch, or all that it goes in now, from the journal; nothing where the journal does not answer,
        or has it no longer."""
        try:
            run = await self._journal.read(Position(position - 1), 1)
        except JournalFailed:
            return []
        if not run:
            return []
        if commitment is None:
            return self._wrap(run[0])
        blob = find_blob(self._key, run[0], commitment, self.router.blob_bytes_max)
        return [] if blob is None else [blob]

    async def _is_of_log(self, blob: PendingBlob) -> bool:
        """Whether the batch of a pending blob is the journal's. One that was trimmed cannot be compared and counts."""
        position = blob.position
        if position is None or position < await self._journal.oldest():
            return True
        if position > await self._journal.tail():
            return False
        (sealed,) = await self._journal.read(Position(position - 1), 1)
        return find_blob(self._key, sealed, blob.commitment, self.router.blob_bytes_max) is not None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.monitor.run(), name="monitor")
            group.create_task(self.reconciler.run(), name="reconciler")
            group.create_task(self.shipper.run(), name="shipper")
            group.create_task(self.shipper.tell_home(), name="home note")
        raise Failed("availability ended by itself")
