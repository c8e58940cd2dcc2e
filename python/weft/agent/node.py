"""A node: one process's part in the cluster, from coming in to leaving.

A *life* is the time under one incarnation: a server that listens, memory that is held, beats that say so. A life goes
on while the coordinator is away, and after it was removed from the cluster it joins again. It ends with the process;
when the cluster behind the URL turns out to be another one, whose peers would not know this server, a new life begins.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from weft.agent.beats import WAIT_MS, Asker, Beats
from weft.agent.carrier import Carrier
from weft.agent.engines import Engines
from weft.agent.holdings import Holdings
from weft.agent.keeper import Keeper
from weft.agent.membership import find_or_found, join, leave, publish
from weft.agent.memory import Listen, Memory
from weft.agent.outlet import Outlet
from weft.agent.settings import NodeSettings
from weft.agent.surveyor import Surveyor
from weft.client.coordinator import Coordinator
from weft.client.flow import Flow
from weft.client.ports import AsyncClock, AsyncHttp, Chance
from weft.client.sizes import format_size
from weft.config import join_address
from weft.dataplane import RdmaRecord
from weft.model.errors import ClusterNotFound, NodeNotFound, Unauthorized, WeftError
from weft.model.ids import Incarnation, NodeId
from weft.model.policy import DRAIN_MS_MAX, WAYS_LOOK_MS

T = TypeVar("T")

# Pauses while the coordinator is away: short at first, for a restart; no longer than half of what makes a node silent.
_PAUSE_FIRST_S = 0.1
_PAUSE_LONGEST_S = 5.0
# One question's patience: short, since the node asks again anyway and wants to say that nobody answers.
_PATIENCE_S = 2.0
# Leaving says goodbye and does not wait long for an answer; what is left unsaid the coordinator finds out.
_GOODBYE_S = 2.0


class _AnotherClusterError(Exception):
    """The coordinator keeps another cluster than the one this life belongs to."""


class Node:
    """One process of `weft node`. Everything it needs of the world is handed in."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        token: str | None,
        http: AsyncHttp,
        listen: Listen,
        clock: AsyncClock,
        chance: Chance,
        outlet: Outlet,
        read_token: Callable[[], str | None] | None = None,
        watch_engines: Callable[..., Engines] = Engines,
    ) -> None:
        self._watch_engines = watch_engines
        self._read_token = read_token
        self._settings = settings
        self._coordinator = Coordinator(token, _PATIENCE_S)
        self._asker = Asker(http, clock, chance)
        self._listen = listen
        self._clock = clock
        self._chance = chance
        self._outlet = outlet
        self._pause_s = _PAUSE_FIRST_S
        self._announced = False
        self._joining = False
        self._rdma: RdmaRecord | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set, then leaves. Raises what no retry can mend, such as a name taken by another."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._live(stopped)
                except _AnotherClusterError:
                    self._outlet.remark("the coordinator keeps another cluster now; joining that one with a new life")
        finally:
            stopped.cancel()

    async def _live(self, stopped: "asyncio.Future[Any]") -> None:
        """One life: from listening to the last goodbye."""
        incarnation = Incarnation(self._chance.getrandbits(63) + 1)
        entering = asyncio.ensure_future(self._enter(incarnation))
        await asyncio.wait((entering, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait((entering,))
            if self._joining:
                await self._leave(Holdings())
            return
        cluster_id, memory = entering.result()
        holdings = Holdings()
        carrier = Carrier(
            holdings, memory, lend_bytes=self._settings.lend_bytes, clock=self._clock, outlet=self._outlet
        )
        engines = self._engines(carrier)
        surveyor = Surveyor(memory, clock=self._clock, outlet=self._outlet)
        keeper = self._keeper(memory, carrier, surveyor)
        beats = self._beats(incarnation, holdings, memory, carrier, surveyor, keeper, engines)
        ready_to_go = asyncio.ensure_future(self._drained(stopped, beats, engines))
        try:
            parts = self._parts(cluster_id, memory, carrier, surveyor, keeper, engines, beats)
            await self._until(ready_to_go, parts)
            if stopped.done():
                await self._leave(holdings)
        finally:
            ready_to_go.cancel()
            await memory.close()

    async def _drained(self, stopped: "asyncio.Future[Any]", beats: Beats, engines: Engines | None) -> None:
        """Return when the node may go: at once at home, and in the cloud after what its engines had begun.

        What if the coordinator does not hear that this node drains, or an engine does not come to an end? Neither is
        waited for longer than its deadline, and the goodbye says the rest.
        """
        await asyncio.wait((stopped,))
        if engines is None:
            return
        beats.drain()
        await self._within(_GOODBYE_S, beats.draining_told.wait())
        await self._within(DRAIN_MS_MAX / 1_000, engines.until_idle())

    async def _within(self, duration_s: float, happening: Coroutine[Any, Any, Any]) -> None:
        """Wait for something, no longer than this."""
        nap, awaited = asyncio.ensure_future(self._clock.sleep(duration_s)), asyncio.ensure_future(happening)
        try:
            await asyncio.wait((nap, awaited), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            awaited.cancel()

    async def _enter(self, incarnation: Incarnation) -> tuple[str, Memory]:
        """Finds or founds the cluster, listens, and joins with the real port: a server is one cluster's."""
        while True:
            try:
                return await self._enter_once(incarnation)
            except (ClusterNotFound, NodeNotFound):
                # Destroyed, or taken out, while this node was coming in: it comes in anew, like any first node.
                await self._clock.sleep(_PAUSE_FIRST_S)

    async def _enter_once(self, incarnation: Incarnation) -> tuple[str, Memory]:
        cluster = await self._insist(lambda: find_or_found(self._coordinator, self._settings.cluster_name))
        memory = await self._listen(bytes.fromhex(cluster.cluster_id), incarnation)
        self._rdma = memory.rdma
        self._joining = True
        try:
            await self._insist(lambda: join(self._coordinator, self._settings, memory.port, incarnation, memory.rdma))
        except BaseException:
            await memory.close()
            raise
        return cluster.cluster_id, memory

    def _parts(
        self,
        cluster_id: str,
        memory: Memory,
        carrier: Carrier,
        surveyor: Surveyor,
        keeper: Keeper | None,
        engines: Engines | None,
        beats: Beats,
    ) -> list[Coroutine[Any, Any, None]]:
        """Everything that goes on side by side during a life."""
        keeping = [keeper.keep_errands(), keeper.keep_scrubbing()] if keeper is not None else []
        looking = [engines.keep_looking()] if engines is not None else []
        looking += [self._keep_rdma(memory)] if memory.looks_for_rdma else []
        return [
            *keeping,
            *looking,
            self._keep_beating(beats, cluster_id, memory.port),
            carrier.keep_fences(),
            carrier.keep_reservations(),
            surveyor.keep_measuring(),
        ]

    def _beats(
        self,
        incarnation: Incarnation,
        holdings: Holdings,
        memory: Memory,
        carrier: Carrier,
        surveyor: Surveyor,
        keeper: Keeper | None,
        engines: Engines | None,
    ) -> Beats:
        cloud = self._settings.cloud
        return Beats(
            node_id=self._settings.name,
            incarnation=incarnation,
            lend_bytes=self._settings.lend_bytes,
            holdings=holdings,
            memory=memory,
            carrier=carrier,
            surveyor=surveyor,
            coordinator=self._coordinator,
            asker=self._asker,
            clock=self._clock,
            keeper=keeper,
            engines=engines,
            wait_ms_max=WAIT_MS if cloud is None else min(WAIT_MS, 1_000 * cloud.heartbeat_s),
        )

    def _engines(self, carrier: Carrier) -> Engines | None:
        """Who watches this machine's engines, in the cloud profile; at home the coordinator does."""
        if self._settings.cloud is None:
            return None
        return self._watch_engines(
            self._settings.cloud, changed=carrier.changed.set, clock=self._clock, remark=self._outlet.remark
        )

    def _keeper(self, memory: Memory, carrier: Carrier, surveyor: Surveyor) -> Keeper | None:
        """Who keeps objects, on a node that does."""
        stock, settings = memory.stock, self._settings
        if stock is None:
            return None

        def address_of(node_id: NodeId) -> tuple[str, int] | None:
            address = surveyor.peers.addresses.get(node_id)
            return (address.host, address.port) if address is not None else None

        return Keeper(
            stock,
            changed=carrier.changed.set,
            address_of=address_of,
            clock=self._clock,
            outlet=self._outlet,
            scrub_bytes_per_s=settings.scrub_bytes_per_s,
            scrub_every_ms=settings.scrub_every_ms,
        )

    async def _keep_beating(self, beats: Beats, cluster_id: str, port: int) -> None:
        wait_ms = 0
        while True:
            try:
                reply = await beats.beat(wait_ms) if wait_ms == 0 else await beats.beat()
            except NodeNotFound:
                self._outlet.remark(f"node {self._settings.name} was removed from the cluster; joining again")
                await self._join_again(port)
            except ClusterNotFound:
                if self._settings.cloud is not None and self._settings.cloud.registers:
                    # The pools door knows no clusters: whoever registers is in, as after a coordinator's restart.
                    self._outlet.remark(f"the coordinator knows nobody; registering node {self._settings.name} again")
                    await self._join_again(port)
                else:
                    await self._wait_for_cluster(port)
            except WeftError as error:
                await self._rest(error)
            else:
                wait_ms = 1
                if reply is None:
                    continue
                if reply.cluster_id != cluster_id:
                    raise _AnotherClusterError
                self._recovered()
                self._announce(port)

    async def _keep_rdma(self, memory: Memory) -> None:
        """Registers what comes of this machine's RDMA device: peers come over to it, and leave it, by the record."""
        while True:
            await self._clock.sleep(WAYS_LOOK_MS / 1_000)
            record, happened = await memory.find_rdma()
            if record == self._rdma:
                continue
            self._rdma = record
            self._outlet.remark(happened)
            # Removed meanwhile, it registers with what there is when it joins again.
            with contextlib.suppress(ClusterNotFound, NodeNotFound):
                await self._insist(lambda: publish(self._coordinator, self._settings, memory.port, self._rdma))

    async def _join_again(self, port: int) -> None:
        """Come back with this life. Where it is gone again in the meantime, the next beat is told so."""
        with contextlib.suppress(ClusterNotFound, NodeNotFound):
            await self._insist(lambda: join(self._coordinator, self._settings, port, rdma=self._rdma))

    async def _wait_for_cluster(self, port: int) -> None:
        """The cluster was destroyed. Founding it again is not for a node that happens to be left over to decide."""
        self._outlet.begin(
            "the cluster was destroyed and what this node held with it; waiting for it to be founded again "
            "(`weft node` on any machine founds it, or restart this one)"
        )
        while True:
            await self._clock.sleep(_PAUSE_LONGEST_S / 5)
            try:
                await self._asker.ask(join(self._coordinator, self._settings, port, rdma=self._rdma))
            except (ClusterNotFound, NodeNotFound):
                continue
            except WeftError as error:
                await self._rest(error)
                continue
            self._outlet.end("the cluster is there again, and this node in it")
            return

    async def _insist(self, flow: Callable[[], Flow[T]]) -> T:
        """Carries a flow out, again and again while the coordinator is away. Raises what waiting cannot mend."""
        while True:
            try:
                result = await self._asker.ask(flow())
            except WeftError as error:
                await self._rest(error)
            else:
                self._recovered()
                return result

    async def _rest(self, error: WeftError) -> None:
        """Pauses after something temporary, longer each time; raises anything else.

        A token that was good may have been changed meanwhile: whoever was let in once waits to be let in again.
        """
        if isinstance(error, Unauthorized) and self._announced and self._read_token is not None:
            self._coordinator.use_token(self._read_token())
        elif not error.temporary:
            raise error
        self._outlet.begin(f"{error}; trying again until it answers")
        await self._clock.sleep(self._pause_s * (0.5 + 0.5 * self._chance.random()))
        self._pause_s = min(2 * self._pause_s, _PAUSE_LONGEST_S)

    def _recovered(self) -> None:
        self._pause_s = _PAUSE_FIRST_S
        self._outlet.end("the coordinator answers again")

    def _announce(self, port: int) -> None:
        if not self._announced:
            self._announced = True
            where = join_address(self._settings.host, port)
            self._outlet.announce(
                f"weft node {self._settings.name} lending {format_size(self._settings.lend_bytes)} at {where}"
            )

    async def _leave(self, holdings: Holdings) -> None:
        lost = holdings.regions_held()
        if lost:
            named = ", ".join(f"{name} ({count})" for name, count in sorted(lost.items()))
            self._outlet.remark(f"node {self._settings.name} leaves; regions that lose extents: {named}")
        try:
            await self._asker.ask(leave(self._coordinator, self._settings, _GOODBYE_S))
        except (NodeNotFound, ClusterNotFound):
            pass
        except WeftError as error:
            self._outlet.remark(f"leaving without a goodbye, since {error}")

    async def _until(self, stopped: "asyncio.Future[Any]", parts: list[Coroutine[Any, Any, None]]) -> None:
        """Runs the parts until one fails or the node is to stop; none outlives this."""
        running: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
            for part in running:
                if part.done():
                    part.result()
        finally:
            for part in running:
                part.cancel()
            await asyncio.wait(running)
