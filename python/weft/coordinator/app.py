"""The coordinator, put together: state, writer, ear, timers and services, around ports that are handed in.

Nothing here chooses a clock, a source of chance, a journal or a network; `__main__` does, and so do the tests and the
simulator.
"""

import asyncio

import msgspec
from starlette.types import ASGIApp

from weft import __version__
from weft.api.routes import ROUTES
from weft.coordinator.attachments import Attachments
from weft.coordinator.beating import Beating
from weft.coordinator.beats import Beats
from weft.coordinator.changes import Changes
from weft.coordinator.clusters import Clusters
from weft.coordinator.endpoints import Endpoints
from weft.coordinator.leases import Leases
from weft.coordinator.numbers import Numbers
from weft.coordinator.ports import Clock, Random
from weft.coordinator.regions import Regions
from weft.coordinator.sweep import Sweep
from weft.coordinator.writer import Writer
from weft.ledger import Journal
from weft.model.errors import Failed
from weft.model.grant import grant_key
from weft.model.ids import RequestId
from weft.model.policy import (
    ATTACH_MS_MAX,
    LEASE_MS,
    NODE_LOST_MS,
    NODE_SILENT_MS,
    QUEUE_COMMANDS_MAX,
    REQUEST_MS_MAX,
    SWEEP_MS,
)
from weft.serve import Gate, Handler, Service, build_app
from weft.telemetry import Log, Metrics


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's numbers a coordinator works with; a test may want them shorter."""

    attach_ms_max: int = ATTACH_MS_MAX
    append_ms_max: int = REQUEST_MS_MAX
    lease_ms: int = LEASE_MS
    node_silent_ms: int = NODE_SILENT_MS
    node_lost_ms: int = NODE_LOST_MS
    queue_max: int = QUEUE_COMMANDS_MAX
    sweep_ms: int = SWEEP_MS


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
        limits: Limits = Limits(),  # noqa: B008 — frozen, so sharing it is harmless.
    ) -> None:
        self._journal = journal
        self._log = log
        self._name = name
        self._limits = limits
        self._request_prefix = random.draw(8).hex()
        self._requests_minted = 0
        self.metrics = Metrics()
        self._changes = Changes(clock)
        self._beats = Beats(clock, self._changes, limits.node_silent_ms)
        self._leases = Leases(clock, limits.lease_ms)
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
        self.sweep = Sweep(self.writer, self._beats, self._leases, clock, limits.node_lost_ms)
        service = Service(
            routes=ROUTES,
            handlers=self._handlers(grant_key(secret)),
            gate=Gate(tokens),
            position=lambda: self.writer.state.marks.position,
            mint_request_id=self._mint_request_id,
            log=log,
            metrics=self.metrics,
            version=__version__,
        )
        self.app: ASGIApp = build_app(service)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Live through the log, begin a term, and begin to write. Raises `JournalFailed`."""
        await self.writer.open(self._name)
        state = self.writer.state
        self._beats.attend(self.writer)
        self._leases.renew_all(state.attachments.keys())
        self.writer.listen(self._leases.on_merged)
        self.writer.listen(lambda *_: self._changes.notice())
        self._tasks = [
            asyncio.create_task(self.writer.run(), name="writer"),
            asyncio.create_task(self._sweep_on(), name="sweep"),
        ]
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
            writing, sweeping = self._tasks
            sweeping.cancel()
            await asyncio.wait({writing, sweeping})
        await self._journal.close()

    async def failed(self) -> None:
        """Return only by raising: when the writer or the sweep ended, which nothing should outlive."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise Failed("this coordinator writes no more: another has begun a newer term; its name is in the log above")

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_ms / 1_000)
            try:
                await self.sweep.look()
            except Failed as error:
                self._log.warning("a sweep could not be finished", code=error.code, reason=error.message)

    def _mint_request_id(self) -> RequestId:
        self._requests_minted += 1
        return RequestId(f"{self._request_prefix}-{self._requests_minted:x}")

    def _handlers(self, key: bytes) -> dict[str, Handler]:
        """Who answers what, by the route table's operations."""
        writer, beats, changes = self.writer, self._beats, self._changes
        clusters = Clusters(writer, beats, __version__)
        endpoints = Endpoints(writer)
        regions = Regions(writer, beats, changes)
        attachments = Attachments(writer, beats, self._leases, changes, key, self._limits.attach_ms_max)
        return {
            "found_cluster": clusters.found,
            "show_cluster": clusters.show,
            "destroy_cluster": clusters.destroy,
            "register_node": clusters.join,
            "remove_node": clusters.leave,
            "show_page": clusters.show_page,
            "show_health": clusters.show_health,
            "register_endpoint": endpoints.register,
            "show_endpoint": endpoints.show,
            "list_endpoints": endpoints.show_all,
            "show_metrics": Numbers(writer, beats, self.metrics).show,
            "beat": Beating(writer, beats, self.metrics).beat,
            "plan_region": regions.plan,
            "list_regions": regions.show_all,
            "show_region": regions.show,
            "delete_region": regions.delete,
            "seal_region": regions.seal,
            "open_attachment": attachments.open,
            "renew_attachment": attachments.renew,
            "close_attachment": attachments.close,
        }
