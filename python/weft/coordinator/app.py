"""The coordinator, put together: state, writer, ear, timers and services, around ports that are handed in.

Nothing here chooses a clock, a source of chance, a journal or a network; `__main__` does, and so do the tests and the
simulator.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from weft import __version__
from weft.api.routes import ROUTES
from weft.coordinator.attachments import Attachments
from weft.coordinator.availability import Availability
from weft.coordinator.beating import Beating
from weft.coordinator.beats import Beats
from weft.coordinator.bindings import Bindings
from weft.coordinator.changes import Changes
from weft.coordinator.chronicle import Chronicle
from weft.coordinator.clusters import Clusters
from weft.coordinator.dispatching import Dispatching
from weft.coordinator.endpoints import Endpoints
from weft.coordinator.following import answer_from_state
from weft.coordinator.healer import Healer
from weft.coordinator.jobs import Jobs
from weft.coordinator.layerdoors import LayerDoors
from weft.coordinator.leases import Leases
from weft.coordinator.numbers import Numbers
from weft.coordinator.objects import Objects
from weft.coordinator.observations import Observations
from weft.coordinator.placing import Placing
from weft.coordinator.pools import PoolNodes
from weft.coordinator.ports import Clock, Random
from weft.coordinator.pulse import Pulse
from weft.coordinator.rebuilding import Rebuilding
from weft.coordinator.regions import Regions
from weft.coordinator.replays import ReplayGuard
from weft.coordinator.roster import Roster
from weft.coordinator.snapshots import Snapshots
from weft.coordinator.storage import StorageNodes
from weft.coordinator.sweep import Sweep
from weft.coordinator.term import Terms
from weft.coordinator.watch import Watch
from weft.coordinator.writer import Writer
from weft.core.liveness import Patience
from weft.core.placement import Strategy
from weft.ledger import Journal, SharedJournal
from weft.ledger.layer import Layer
from weft.ledger.snapshot import SnapshotFolder
from weft.model.availability import AvailabilityPolicy, Role
from weft.model.errors import Failed
from weft.model.grant import grant_key
from weft.model.ids import RequestId
from weft.model.policy import (
    ATTACH_MS_MAX,
    AVAILABLE_MS_MAX,
    JOURNAL_KEPT_BATCHES,
    LEASE_MS,
    NODE_LOST_MS,
    NODE_PURGE_MS,
    NODE_SILENT_MS,
    PULSE_MS_MAX,
    QUEUE_COMMANDS_MAX,
    REQUEST_MS_MAX,
    SNAPSHOT_EVENTS,
    SWEEP_MS,
    TERM_LEASE_MS,
)
from weft.receipts import Domain, SigningKey
from weft.serve import Gate, Handler, Service, build_app
from weft.telemetry import Log, Metrics

CLUSTER_NAME = "weft"
"""What a cluster is called when its first node comes through a door that knows no clusters."""

_ENDED_FIRST = frozenset({"sweep", "pulse", "terms", "shipping"})
"""The tasks that find work for the writer, or only wait for a time or a turn to come."""
_UNHEARD_MS = 2**52
"""Longer than any silence: who hears nobody, because another coordinator is beaten to, finds nobody silent."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's numbers a coordinator works with; a test may want them shorter."""

    attach_ms_max: int = ATTACH_MS_MAX
    beat_skew_ms: int = 0
    append_ms_max: int = REQUEST_MS_MAX
    available_ms_max: int = AVAILABLE_MS_MAX
    lease_ms: int = LEASE_MS
    node_silent_ms: int = NODE_SILENT_MS
    node_lost_ms: int = NODE_LOST_MS
    node_purge_ms: int = NODE_PURGE_MS
    stale_check_ms: int = 0
    queue_max: int = QUEUE_COMMANDS_MAX
    sweep_ms: int = SWEEP_MS
    term_lease_ms: int = TERM_LEASE_MS
    snapshot_events: int = SNAPSHOT_EVENTS
    kept_batches: int = JOURNAL_KEPT_BATCHES


class Coordinator:
    """One coordinator. `start` before the app is asked anything, `stop` after it was asked the last time."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        secret: bytes,
        name: str,
        tokens: tuple[str, ...] = (),
        home: bool = True,
        cluster_name: str = CLUSTER_NAME,
        loopback_exempt: bool = False,
        strategy: Strategy = Strategy.ROUND_ROBIN,
        limits: Limits = Limits(),  # noqa: B008 — frozen, so sharing it is harmless.
        shared: SharedJournal | None = None,
        address: str = "",
        snapshots: SnapshotFolder | None = None,
        layers: Mapping[Role, Layer] | None = None,
        availability: AvailabilityPolicy = AvailabilityPolicy(),  # noqa: B008 — the same.
        directory: Path | None = None,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """`shared` is the journal once more where other coordinators reach it, and `address` is where they reach us.

        `stopwatch` counts seconds more finely than the clock does; without one what takes less than 1 ms took none.
        """
        self._journal = journal
        self._log = log
        self._clock = clock
        self._name = name
        self._limits = limits
        own_chance = random.draw(16)
        self._request_prefix = own_chance[:8].hex()
        self._requests_minted = 0
        self._correlation_prefix = _correlation_prefix(own_chance)
        self._correlations_minted = 0
        # Whoever scrapes numbers in the cloud profile needs no token, as with the node seed's coordinator.
        self.gate = Gate(tokens, exempt=() if home else ("show_metrics",), loopback_exempt=loopback_exempt)
        self.metrics = Metrics()
        self._changes = Changes(clock)
        patience = Patience(
            silent_ms=limits.node_silent_ms, timeout_ms=limits.node_lost_ms, purge_ms=limits.node_purge_ms
        )
        self.pulse = Pulse(clock, min(PULSE_MS_MAX, limits.node_lost_ms // 3), log)
        self._beats = Beats(clock, self._changes, patience, self.pulse)
        self._leases = Leases(clock, limits.lease_ms)
        self.pulse.on_stopped(self._leases.excuse)
        self._observations = Observations()
        self._roster = Roster(self._beats.verdict)
        self._jobs = Jobs(clock)
        self._observations.on_pools(self._jobs.settle)
        self.writer = Writer(
            journal,
            clock,
            random,
            self._beats.silent,
            log,
            self.metrics,
            queue_max=limits.queue_max,
            append_ms_max=limits.append_ms_max,
        )
        self.availability: Availability | None = None
        if layers:
            self.availability = Availability(
                layers,
                directory,
                journal,
                SigningKey.from_secret(secret, Domain.PUBLISHER),
                availability,
                clock,
                log,
                self.metrics,
                shared=shared,
                available_ms_max=limits.available_ms_max,
            )
        self._acknowledgement = availability.acknowledgement
        self.bindings = Bindings(clock, log)
        self._chronicle = Chronicle(lambda: self.writer.state, self._beats, self._observations, log, self.metrics)
        self._replays = ReplayGuard(clock, limits.beat_skew_ms)
        self._pools = PoolNodes(
            self.writer,
            self._beats,
            self._replays,
            self._observations,
            self.bindings,
            self._chronicle,
            clock,
            log,
            cluster_name=cluster_name,
        )
        self._storage = StorageNodes(
            self.writer, self._beats, self._observations, self._chronicle, cluster_name=cluster_name
        )
        self.healer = Healer(self.writer, self._beats, self._roster, self.metrics)
        self.sweep = Sweep(self.writer, self._beats, self._leases, self.healer, log)
        self._watch = Watch(journal, lambda: self.writer.state.marks.position, self._changes, self.metrics)
        self._dispatching = Dispatching(
            self.writer,
            self._roster,
            self._observations,
            self._jobs,
            random,
            self.metrics,
            home=home,
            strategy=strategy,
            now_s=stopwatch or (lambda: clock.monotonic_ms() / 1_000),
        )
        self.snapshots = Snapshots(
            self.writer,
            journal,
            snapshots,
            log,
            self.metrics,
            trims=shared is None,
            every_events=limits.snapshot_events,
            kept_batches=limits.kept_batches,
            shipped=None if self.availability is None else self.availability.shipper.noted,
            post=None if self.availability is None else self.availability.post,
        )
        publisher = SigningKey.from_secret(secret, Domain.PUBLISHER).public
        self.rebuilding = Rebuilding(self.writer, journal, self.snapshots, clock, publisher)
        if self.availability is not None:
            self.rebuilding.know(self.availability.layers)
        service = Service(
            routes=ROUTES,
            handlers=answer_from_state(self._handlers(grant_key(secret)), self.writer, frozenset()),
            gate=self.gate,
            position=lambda: self.writer.state.marks.position,
            mint_request_id=self._mint_request_id,
            mint_correlation_id=self._mint_correlation_id,
            log=log,
            metrics=self.metrics,
            version=__version__,
            reach=self._watch.reach,
            closed=self._pools.closed if home else None,
        )
        self.app: ASGIApp = build_app(service)
        self._terms: Terms | None = None
        if shared is not None:
            self._terms = Terms(
                self.writer,
                shared,
                clock,
                log,
                self.metrics,
                name=name,
                address=address,
                on_begun=self._on_begun,
                on_followed=lambda: self._beats.excuse(_UNHEARD_MS),
                lease_ms=limits.term_lease_ms,
            )
        self._reigning = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Live through the log; begin a term and to write, or follow whoever does. Raises `JournalFailed`."""
        await self.snapshots.begin()
        if self._terms is not None:
            await self._terms.start()
        else:
            await self.writer.open(self._name)
        state = self.writer.state
        self._beats.attend(self.writer)
        self.pulse.note()
        self._roster.attend(state)
        self._leases.renew_all(state.attachments.keys())
        self.writer.listen(self._roster.on_merged)
        self.writer.listen(self.healer.on_merged)
        self.writer.listen(self._observations.on_merged)
        self.writer.listen(self._jobs.on_merged)
        self.writer.listen(self._replays.on_merged)
        self.writer.listen(self.bindings.on_merged)
        self.writer.listen(self._chronicle.on_merged)
        self.writer.listen(self._leases.on_merged)
        self.writer.listen(lambda *_: self._changes.notice())
        self.writer.listen(self.snapshots.on_merged)
        self._tasks = [
            asyncio.create_task(self.writer.run(), name="writer"),
            asyncio.create_task(self._sweep_on(), name="sweep"),
            asyncio.create_task(self.pulse.run(), name="pulse"),
        ]
        if self._terms is not None:
            self._tasks.append(asyncio.create_task(self._terms.run(), name="terms"))
        if self.availability is not None:
            if self.writer.reigns:
                shipping = await self._begin_shipping(self.availability)
                self._tasks.append(asyncio.create_task(_outlast(shipping), name="shipping"))
            else:
                self._tasks.append(asyncio.create_task(self._ship_once_reigning(self.availability), name="shipping"))
        self._log.info("log followed", position=state.marks.position, nodes=len(state.nodes), writer=self._name)

    def drain(self) -> None:
        """Let go of everybody who waits, so that requests under way can end."""
        self._beats.drain()
        self._changes.drain()

    async def stop(self) -> None:
        """Answer what waits for the writer, then let go of the journal."""
        self.drain()
        self.writer.close()
        if self._tasks:
            writing, *others = self._tasks
            # What ships is not among those that end here: it first ships what the writer still writes.
            ending = [task for task in others if task.get_name() in _ENDED_FIRST]
            for task in ending:
                task.cancel()
            await asyncio.wait({writing, *ending})
        if self.availability is not None:
            await self.availability.stop()
        if self._terms is not None:
            await self._terms.leave()
        await self.snapshots.end()
        await self._journal.close()

    async def failed(self) -> None:
        """Return only by raising: when the writer, the terms or the sweep ended, which nothing should outlive."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise Failed("this coordinator writes no more: another has begun a newer term; its name is in the log above")

    def _hears(self) -> bool | None:
        """Whether this one, while it follows, hears of a writer; None while it does not follow."""
        if self._terms is None or self.writer.reigns or self.writer.is_closing:
            return None
        return self._terms.hears

    def _on_begun(self) -> None:
        """This coordinator reigns from now on, and has heard nobody: every node and every lease begins anew."""
        if self._beats.is_attended:
            self._beats.begin_anew()
        self.healer.begin_anew()
        self._leases.renew_all(self.writer.state.attachments.keys())
        if self.availability is not None:
            # Before the first command: no answer may say less than it means.
            self.writer.ship_with(self.availability.shipper)
            self.availability.shipper.resume(self.writer.state.marks.position)
        self._reigning.set()

    async def _begin_shipping(self, availability: Availability) -> "asyncio.Task[None]":
        """The writer ships the log, and only the writer: others would put every batch once more."""
        state = self.writer.state
        assert state.ledger is not None, "a log that was opened has a ledger"
        self.writer.ship_with(availability.shipper)
        return await availability.begin(state.marks.position, state.ledger.cluster_id)

    async def _ship_once_reigning(self, availability: Availability) -> None:
        await self._reigning.wait()
        await _outlast(await self._begin_shipping(availability))

    async def _sweep_on(self) -> None:
        pause_s = self._limits.sweep_ms / 1_000
        checked_ms = self._clock.monotonic_ms()
        while True:
            await asyncio.sleep(pause_s)
            # Leases are looked at without asking how silent anybody is.
            self.pulse.look()
            woken_ms = self._clock.monotonic_ms()
            if not self.writer.reigns:
                if self._terms is None:
                    # Nobody shares this journal, so nothing is left to do for one who may not write it.
                    self.writer.close()
                continue
            at_nodes = woken_ms - checked_ms >= self._limits.stale_check_ms
            checked_ms = woken_ms if at_nodes else checked_ms
            try:
                await self.sweep.look(at_nodes=at_nodes)
            except Failed as error:
                self._log.warning("a sweep could not be finished", code=error.code, reason=error.message)

    def _mint_request_id(self) -> RequestId:
        self._requests_minted += 1
        return RequestId(f"{self._request_prefix}-{self._requests_minted:x}")

    def _mint_correlation_id(self) -> str:
        self._correlations_minted += 1
        return f"{self._correlation_prefix}-{self._correlations_minted:012x}"

    def _handlers(self, key: bytes) -> dict[str, Handler]:
        """Who answers what, by the route table's operations."""
        writer, beats, changes = self.writer, self._beats, self._changes
        placing = Placing(writer, self._roster, self._observations)
        clusters = Clusters(writer, beats)
        doors = LayerDoors(writer, self.availability, self._clock, self._acknowledgement, __version__, self._hears)
        endpoints = Endpoints(writer)
        regions = Regions(writer, beats, changes)
        objects = Objects(writer, self.healer, self._roster)
        attachments = Attachments(writer, beats, self._leases, changes, key, self._limits.attach_ms_max)
        return {
            "found_cluster": clusters.found,
            "show_cluster": clusters.show,
            "destroy_cluster": clusters.destroy,
            "register_node": clusters.join,
            "remove_node": clusters.leave,
            "show_page": clusters.show_page,
            "show_health": doors.show_health,
            "show_ready": doors.show_ready,
            "show_system_info": doors.show_system_info,
            "post_blob": doors.post_blob,
            "show_blob": doors.show_blob,
            "show_da_metrics": doors.show_metrics,
            "show_da_routing": doors.show_routing,
            "show_fallback_status": doors.show_status,
            "list_fallback_pending": doors.list_fallback_pending,
            "reconcile": doors.reconcile,
            "compare_layers": doors.compare,
            "show_ledger": doors.show_ledger,
            "list_pending": doors.list_pending,
            "register_endpoint": endpoints.register,
            "show_endpoint": endpoints.show,
            "list_endpoints": endpoints.show_all,
            "show_metrics": Numbers(writer, beats, self.metrics).show,
            "beat": Beating(writer, beats, self._pools, self.healer, self.metrics).beat,
            "register_pool_node": self._pools.register,
            "heartbeat": self._pools.heartbeat,
            "deregister_pool_node": self._pools.deregister,
            "list_pool_nodes": self._pools.show_all,
            "list_engines": self._pools.list_engines,
            "register_storage_node": self._storage.register,
            "list_storage_nodes": self._storage.show_all,
            "show_storage_node": self._storage.show,
            "show_node_stats": self._storage.show_stats,
            "take_node_stats": self._storage.take_stats,
            "drain_node": self._storage.drain,
            "resume_node": self._storage.resume,
            "plan_region": regions.plan,
            "list_regions": regions.show_all,
            "show_region": regions.show,
            "delete_region": regions.delete,
            "seal_region": regions.seal,
            "open_attachment": attachments.open,
            "renew_attachment": attachments.renew,
            "close_attachment": attachments.close,
            "place_key": placing.place,
            "schedule": placing.schedule,
            "configure_scheduler": placing.configure,
            "show_scheduler_config": placing.show_config,
            "place_job": self._dispatching.place,
            "show_job": self._dispatching.show,
            "end_job": self._dispatching.end,
            "show_availability": self._dispatching.show_availability,
            "watch_events": self._watch.stream,
            "show_state": self.rebuilding.show,
            "rebuild_state": self.rebuilding.rebuild,
            "register_object": objects.register,
            "delete_object": objects.delete,
            "show_object": objects.show,
            "show_object_targets": objects.show_targets,
            "list_objects": objects.show_all,
            "mark_replica_missing": objects.mark_missing,
            "mark_replica_healed": objects.mark_healed,
        }


async def _outlast(shipping: "asyncio.Task[None]") -> None:
    """Wait for it and do not await it: when this is cancelled, what was committed is still shipped."""
    await asyncio.wait({shipping})
    shipping.result()


def _correlation_prefix(chance: bytes) -> str:
    """All of a random UUID but its last twelve digits, which count: unique, and cheap to make for every request."""
    digits = chance.hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}"
