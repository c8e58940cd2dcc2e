"""A member: an endpoint of this process that is a node of the cluster, found by its name and by the best transport.

    with weft.connect() as cluster, cluster.join("decode-1") as member:
        peer = member.peer("prefill-0")                        # by ipc, rdma or tcp: what both ends registered
        peer.read_now(advert, into)

It brings no machine and lends nothing. It registers where it listens and, where this process has a device, its RDMA
half, and beats like any node: each beat waits at the coordinator until some endpoint has changed, so a peer that
registers RDMA is on it a moment later, and one that registers TCP again is off it. Its beats say how each peer is
reached, how much moved and why not by something better, which `weft status` shows.

Two threads: one beats, the other turns peers and looks after this process's device. What if the coordinator is away?
Everything goes on as it was chosen, and what breaks goes on over TCP; changes are heard when it is back.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urlsplit

from weft.api.bodies.beat import BeatBody, Observations, PeerReport
from weft.api.bodies.cluster import NodeBody
from weft.client.coordinator import Coordinator, registered
from weft.client.endpoint import ways_asked
from weft.client.flow import Flow
from weft.config import is_loopback, rdma_choice, route_from
from weft.dataplane import RdmaRecord, prepare_rdma
from weft.dataplane.choice import Registered
from weft.dataplane.endpoint import Endpoint, Peer
from weft.dataplane.rdma import OFF
from weft.dataplane.ways import WayReport, Ways
from weft.model.errors import ClusterNotFound, IncarnationRetired, NodeExists, NodeNotFound, NotSupported, WeftError
from weft.model.ids import Incarnation, parse_node_id, spell_incarnation
from weft.model.policy import ERROR_LENGTH_MAX, RDMA_LOOK_MS, WAYS_LOOK_MS

if TYPE_CHECKING:
    from weft.client.cluster import Cluster

T = TypeVar("T")

_log = logging.getLogger(__name__)

# How long a beat waits for news, as a node's does: two may be lost before the member counts as silent.
_BEAT_WAIT_MS: Final = 3_000
# One question's patience: the next beat asks again anyway.
_PATIENCE_S: Final = 2.0
# Pauses while the coordinator is away; it doubles from the first to the longest.
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_LONGEST_S: Final = 5.0
# How long `close` waits for a thread that is in the middle of something; both are daemons and may outlive it.
_STOP_S: Final = 1.0


class Member:
    """This process as a node of the cluster. Made by `Cluster.join`; a context manager that leaves."""

    def __init__(self, cluster: "Cluster", endpoint: Endpoint, ways: Ways, *, host: str, rdma: str) -> None:
        self.endpoint: Final = endpoint
        """Registers memory, takes notifications, and is what peers connect to."""
        self._cluster = cluster
        self._coordinator: Coordinator = cluster.coordinator
        self._ways = ways
        self._host = host
        self._rdma_choice = rdma
        self._rdma: RdmaRecord | None = None
        self._published: RdmaRecord | None = None
        self._registering = threading.Lock()
        self._cluster_id = endpoint.cluster_id.hex()
        self._generation = 0
        self._endpoints_version: int | None = None
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"weft-{work.__name__.strip('_')}", daemon=True)
            for work in (self._beating, self._tending)
        ]

    @property
    def name(self) -> str:
        """What the cluster knows this process by."""
        return self.endpoint.name

    def peer(self, name: str, *, timeout_ms: int | None = None) -> Peer:
        """The way to another node's endpoint, by the best transport there is, now and later.

        Raises EndpointNotFound when no such node registered one, and what connecting raises.
        """
        if not self._ways.knows(name):
            self._learn()
        return self._ways.peer(name, timeout_ms=timeout_ms)

    def accept(self, timeout_ms: int) -> Peer | None:
        """The next node that connected here, by the best way back; None when none did in time."""
        return self._ways.accept(timeout_ms)

    def ways(self) -> list[WayReport]:
        """How each peer is reached, what moved, and why not by something better."""
        return self._ways.reports()

    def use_rdma(self) -> RdmaRecord:
        """Takes this process's device into use and registers it, so that peers come over to it. Twice is once.

        A member does so by itself, at the start and every now and then. Raises NotSupported where there is none.
        """
        with self._registering:
            self._rdma_choice = rdma_choice(os.environ) if self._rdma_choice == OFF else self._rdma_choice
            if (state := prepare_rdma(self._rdma_choice)).device is None:
                raise NotSupported(f"this process has no RDMA device: {state.reason}")
            record = self.endpoint.use_rdma()
            assert record is not None, "a device is in use"
            self._rdma = record
            self._publish()
            return record

    def drop_rdma(self, why: str = "it was asked to") -> None:
        """Gives the device up and registers TCP again, so that peers go back. It is not taken up by itself again."""
        self._rdma_choice = OFF
        self._give_up_rdma(why)

    def close(self) -> None:
        """Leaves the cluster and ends everything: transfers under way fail as closed. Twice is once."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._news.set()
        with contextlib.suppress(WeftError):
            self._ask(lambda: self._coordinator.leave(self.name, _PATIENCE_S))
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(_STOP_S)
        self.endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Comes into the cluster and begins to beat. Raises what keeps this process out."""
        self._come_in(new_life=True)
        self._learn()
        for thread in self._threads:
            thread.start()

    def _ask(self, flow: Callable[[], Flow[T]]) -> T:
        return self._cluster.ask(flow())

    def _come_in(self, *, new_life: bool) -> None:
        """Joins and registers, whatever there is of this name from an earlier life."""
        with self._registering:
            self._take_up_rdma()
            self._ask(lambda: self._joining(new_life=new_life))

    def _joining(self, *, new_life: bool) -> Flow[None]:
        coordinator, (_, port) = self._coordinator, self.endpoint.address
        body = NodeBody(
            node_id=self.name,
            hostname=socket.gethostname(),
            ip_address=self._host,
            cpu_count=0,
            memory_mb=0,
            status="active",
        )
        try:
            yield from coordinator.join(body)
        except NodeExists:
            if new_life:
                # Before the endpoint is taken over: another process that runs under this name keeps it.
                yield from coordinator.beat(self.name, self._body(0))
        yield from coordinator.register_endpoint(self.name, self._host, port)
        if self._rdma is not None:
            yield from _publish_rdma(coordinator, self.name, self._rdma)
        self._published = self._rdma

    def _take_up_rdma(self) -> bool:
        """Takes a device into use, where there is one and it may be."""
        if self._rdma_choice == OFF or self._rdma is not None or prepare_rdma(self._rdma_choice).device is None:
            return False
        try:
            self._rdma = self.endpoint.use_rdma()
        except NotSupported as error:
            _log.info("RDMA is not used: %s", error)
        return self._rdma is not None

    def _give_up_rdma(self, why: str) -> None:
        with self._registering:
            self._rdma = None
            if self.endpoint.drop_rdma():
                _log.warning("%s gives RDMA up: %s", self.name, why)
            self._publish()

    def _publish(self) -> None:
        """Registers what there is now, where the record says something else. Raises what asking raises."""
        record, (_, port) = self._rdma, self.endpoint.address
        if record == self._published:
            return
        if record is None:
            self._ask(lambda: self._coordinator.register_endpoint(self.name, self._host, port))
        else:
            self._ask(lambda: _publish_rdma(self._coordinator, self.name, record))
        self._published = record

    def _learn(self) -> None:
        """Takes in what is registered now."""
        self._ways.learn(registered(self._ask(self._coordinator.endpoints)))
        self._news.set()

    def _beating(self) -> None:
        wait_ms, pause_s = 0, _PAUSE_FIRST_S
        while not self._stopped.is_set():
            try:
                self._beat(wait_ms)
            except IncarnationRetired as error:
                _log.error("%s is another process's name now; what was chosen stays: %s", self.name, error)
                return
            except WeftError as error:
                if not self._stopped.is_set():
                    _log.info("%s beat in vain: %s", self.name, error)
                    self._stopped.wait(pause_s)
                    pause_s = min(2 * pause_s, _PAUSE_LONGEST_S)
            except Exception:
                # A defect: it is in the log, and the cluster does not miss this member because of it.
                _log.exception("a beat of %s failed", self.name)
                self._stopped.wait(_PAUSE_LONGEST_S)
            else:
                wait_ms, pause_s = _BEAT_WAIT_MS, _PAUSE_FIRST_S

    def _beat(self, wait_ms: int) -> None:
        try:
            reply = self._ask(lambda: self._coordinator.beat(self.name, self._body(wait_ms), _PATIENCE_S))
        except (NodeNotFound, ClusterNotFound):
            if not self._stopped.wait(_PAUSE_FIRST_S):
                # Removed, or the coordinator forgot everybody: this life comes back.
                self._come_in(new_life=True)
            return
        if reply.cluster_id != self._cluster_id:
            raise IncarnationRetired("the coordinator keeps another cluster; join that one", node_id=self.name)
        self._generation = reply.generation
        if reply.endpoints_version != self._endpoints_version:
            self._learn()
            self._endpoints_version = reply.endpoints_version

    def _body(self, wait_ms: int) -> BeatBody:
        return BeatBody(
            incarnation=spell_incarnation(Incarnation(self.endpoint.incarnation)),
            generation=self._generation,
            wait_ms=wait_ms,
            observations=Observations(lend_bytes=0, peers=[_report(way) for way in self.ways() if way.distance]),
        )

    def _tending(self) -> None:
        since_look_ms = 0
        while not self._stopped.is_set():
            if not self._news.wait(WAYS_LOOK_MS / 1_000):
                since_look_ms += WAYS_LOOK_MS
            self._news.clear()
            if self._stopped.is_set():
                return
            try:
                self._look_after_rdma(look=since_look_ms >= RDMA_LOOK_MS)
                self._ways.tend()
            except WeftError as error:
                _log.info("%s could not look after its ways: %s", self.name, error)
            except Exception:
                _log.exception("%s could not look after its ways", self.name)
            if since_look_ms >= RDMA_LOOK_MS:
                since_look_ms = 0

    def _look_after_rdma(self, *, look: bool) -> None:
        """Gives up a device that is lost, and looks now and then whether there is one."""
        if (trouble := self.endpoint.rdma_trouble) is not None:
            self._give_up_rdma(trouble)
            return
        with self._registering:
            if look:
                self._take_up_rdma()
            # Also what could not be said when it happened.
            self._publish()


def join(cluster: "Cluster", name: str, *, host: str | None, port: int) -> Member:
    """Listens, comes into the cluster, and goes on beating. Raises what keeps this process out, and leaves nothing."""
    name = str(parse_node_id(name, "name"))
    cluster_id = bytes.fromhex(cluster.describe().cluster_id)
    congestion, asked = ways_asked()
    where = host or _reached_at(cluster.url)
    endpoint = Endpoint.listen(
        secret=cluster.secret,
        name=name,
        host=where,
        port=port,
        cluster_id=cluster_id,
        congestion=congestion,
        transport=asked,
    )
    own = Registered(name=name, host=where, port=endpoint.address[1])
    ways = Ways(endpoint, own, only=asked)
    rdma = rdma_choice(os.environ) if asked in (None, "rdma") else OFF
    member = Member(cluster, endpoint, ways, host=where, rdma=rdma)
    try:
        member.start()
    except BaseException:
        endpoint.close()
        raise
    return member


def _publish_rdma(coordinator: Coordinator, name: str, record: RdmaRecord) -> Flow[None]:
    yield from coordinator.register_rdma(name, record.queue_pair, record.lid, record.gid, record.packet_sequence)


def _report(way: WayReport) -> PeerReport:
    assert way.distance is not None, "only what was measured is reported"
    return PeerReport(
        node_id=way.name,
        transport=way.transport,
        rtt_us=round(way.distance.rtt_us, 1),
        tier=way.distance.tier,
        moved_bytes=dict(way.moved_bytes),
        reasons=[reason[:ERROR_LENGTH_MAX] for reason in way.reasons],
    )


def _reached_at(url: str) -> str:
    """The address of this machine that the coordinator's answers come to, so that other nodes reach it too."""
    host = urlsplit(url).hostname or "127.0.0.1"
    return "127.0.0.1" if is_loopback(host) else route_from(host)
