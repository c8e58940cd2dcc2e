"""The peers of one endpoint by their nodes' names, each on the best way there is, also when what is best changes.

Records come from the coordinator and are only remembered here; `tend` compares them with what is used and turns the
peers whose choice has changed. What is under way on a peer that is turned ends on the old way, and what begins then
takes the new one, so no transfer fails of it. A way that broke is tried again by every `tend`, as often as the engine
lets it. Each choice is said once, in the log, with the reasons of what was passed over.

What if a record is late? Then the engine notices first: the queue pair is gone, bytes go over TCP, and the record says
why afterwards. What if a peer comes back as another process? Its record has grown; taking TCP finds out who answers,
and the way to the life that ended is given up.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from weft.dataplane.choice import Choice, Registered, choose
from weft.dataplane.endpoint import Endpoint, Peer
from weft.dataplane.rdma import report_rdma
from weft.model.errors import EndpointNotFound, ExtentLost, Unreachable, WeftError

_log = logging.getLogger(__name__)


class PeerDistance(Struct, frozen=True, kw_only=True):
    """How far a peer is: the best round trip of a few, and the tier it falls into."""

    rtt_us: float
    tier: str


class WayReport(Struct, frozen=True, kw_only=True):
    """The way to one peer as it is: which transport, how much moved over each, and why not a better one.

    Where there are several ways to one node, the newest speaks for all; what moved is of all that ever were.
    """

    name: str
    transport: str
    moved_bytes: Mapping[str, int]
    reasons: tuple[str, ...]
    distance: PeerDistance | None


class _Way:
    """A peer, what was chosen for it, and of which records."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.choice = Choice(peer=peer.name, transport="tcp")
        self.chosen_for: tuple[Registered, Registered] | None = None
        self.distance: PeerDistance | None = None
        self.trouble: str | None = None


class Ways:
    """The ways of one endpoint. For any thread; choosing goes on in one at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        own: Registered,
        *,
        only: str | None = None,
        unfit: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _log.info,
    ) -> None:
        """`only` keeps to one transport; `unfit` are those that cannot carry what this endpoint moves, and why."""
        self._endpoint = endpoint
        self._only = only
        self._unfit = unfit or {}
        self._say = say
        self._said: dict[str, str] = {}
        self._past: dict[str, dict[str, int]] = {}
        self._last: dict[str, _Way] = {}
        self._lock = threading.Lock()
        self._turning = threading.Lock()
        self._own = own
        self._records: Mapping[str, Registered] = {}
        self._ways: dict[str, list[_Way]] = {}

    def learn(self, records: Mapping[str, Registered]) -> None:
        """What is registered now, this endpoint's own record with it. `tend` acts on it."""
        with self._lock:
            self._records = records
            for name in [name for name in self._past if name not in records]:
                del self._past[name], self._last[name]
            self._own = records.get(self._own.name, self._own)

    def knows(self, name: str, host: str | None = None, port: int | None = None) -> bool:
        """Whether a node of this name registered where it listens, and that this is there."""
        record = self._records.get(name)
        return record is not None and (host is None or (record.host, record.port) == (host, port))

    def peer(self, name: str, *, timeout_ms: int | None = None) -> Peer:
        """The way to a node, connected and chosen. Raises `EndpointNotFound`, and what connecting raises."""
        if (known := self._current(name)) is not None:
            return known
        with self._turning:
            # Another thread may have connected meanwhile.
            if (known := self._current(name)) is not None:
                return known
            return self._connect(name, timeout_ms)

    def connect(self, name: str, *, timeout_ms: int | None = None) -> Peer:
        """As `peer`, and always a way of its own: for whoever closes it when done. Raises as `peer`."""
        with self._turning:
            return self._connect(name, timeout_ms)

    def accept(self, timeout_ms: int) -> Peer | None:
        """The next peer that connected here, on the best way back. None when none did in time."""
        peer = self._endpoint.accept(timeout_ms, plainly=True)
        if peer is None:
            return None
        with self._turning:
            return self._keep(peer)

    def _connect(self, name: str, timeout_ms: int | None) -> Peer:
        record = self._records.get(name)
        if record is None:
            raise EndpointNotFound(f"no endpoint is registered for node {name}", node_id=name)
        peer = self._endpoint.connect((record.host, record.port), timeout_ms=timeout_ms, plainly=True)
        if peer.name != name:
            peer.close()
            raise Unreachable(f"{peer.name} answers where {name} is registered, at {record.host}:{record.port}")
        return self._keep(peer)

    def tend(self) -> None:
        """Turns the peers whose records have changed, and tries again what broke. Waits for peers, each for a while."""
        # Each lane says it for itself.
        for sentence in dict.fromkeys((report_rdma() or {}).get("said", ())):
            self._say(sentence)
        for name in list(self._ways):
            with self._turning:
                for way in self._open(name):
                    self._tend(way)

    def reports(self) -> list[WayReport]:
        """Every peer that is registered, with all ways to it in one."""
        reports: list[WayReport] = []
        for name in sorted({*self._ways, *self._last}):
            ways = self._open(name)
            newest = ways[-1] if ways else self._last.get(name)
            if newest is None or not self.knows(name):
                continue
            report = WayReport(
                name=name,
                transport=newest.peer.transport,
                moved_bytes=_added([self._past.get(name, {}), *(way.peer.moved_bytes for way in ways)]),
                reasons=_reasons(newest),
                distance=next((way.distance for way in (*ways, newest) if way.distance is not None), None),
            )
            reports.append(report)
        return reports

    def _open(self, name: str) -> list[_Way]:
        """The ways to a name that nobody gave up."""
        with self._lock:
            ways = self._ways.get(name, [])
            left = [way for way in ways if not way.peer.is_closed]
            for way in ways:
                if way.peer.is_closed:
                    self._past[name] = _added((self._past.get(name, {}), way.peer.moved_bytes))
                    self._last[name] = way
            if left:
                self._ways[name] = left
            else:
                self._ways.pop(name, None)
            return left

    def _current(self, name: str) -> Peer | None:
        """The peer that leads to where its node is registered now."""
        record = self._records.get(name)
        for way in self._open(name):
            if record is None or way.peer.address == (record.host, record.port):
                return way.peer
        return None

    def _keep(self, peer: Peer) -> Peer:
        way = _Way(peer)
        self._tend(way, met_now=True)
        with self._lock:
            self._ways.setdefault(peer.name, []).append(way)
        return peer

    def _tend(self, way: _Way, *, met_now: bool = False) -> None:
        with self._lock:
            ours, theirs = self._own, self._records.get(way.peer.name)
        # Who is not registered, or no longer, is reached as it was; its own connections say when it is gone.
        if theirs is not None and not met_now and way.peer.address != (theirs.host, theirs.port):
            self._look_whether_left(way, theirs)
        elif theirs is not None and way.chosen_for != (ours, theirs):
            self._turn(way, ours, theirs, met_now=met_now)
        elif way.peer.wanted not in ("tcp", way.peer.transport):
            self._try_again(way)
        elif way.trouble is not None:
            way.trouble = None
            self._say(f"{way.peer.name} is reached by {way.peer.transport} again")
        if theirs is not None and way.distance is None and not way.peer.is_closed:
            try:
                rtt_us, tier = self._endpoint.measure(theirs.host, theirs.port)
                way.distance = PeerDistance(rtt_us=rtt_us, tier=tier)
            except WeftError as error:
                _log.debug("%s could not be measured: %s", way.peer.name, error)

    def _turn(self, way: _Way, ours: Registered, theirs: Registered, *, met_now: bool) -> None:
        """Has a peer go by what is best now, which is what worked."""
        peer, failed = way.peer, dict(self._unfit)
        before = way.chosen_for
        while True:
            choice = choose(ours, theirs, peer.meeting, only=self._only, failed=failed)
            if self._stays(way, choice, ours, theirs) or (met_now and choice.transport == "tcp"):
                break
            try:
                peer.take_way(choice.transport, expected=theirs.rdma if choice.transport == "rdma" else None)
            except ExtentLost:
                self._say(f"{peer.name} is another process by now; connect to it again")
                peer.close()
                return
            except WeftError as error:
                if choice.transport == "tcp":
                    # Nobody answers there at the moment: asked again by the next `tend`.
                    _log.debug("%s could not be asked: %s", peer.name, error)
                    return
                failed[choice.transport] = str(error)
            else:
                break
        way.chosen_for, way.trouble = (ours, theirs), None
        if before is not None and before[1] != theirs:
            way.distance = None
        way.choice = choice
        host, port = peer.address
        sentence = f"{choice} ({host}:{port})"
        if self._said.get(peer.name) != sentence:
            # Once for each peer, however often somebody connects to it.
            self._said[peer.name] = sentence
            self._say(sentence)

    def _look_whether_left(self, way: _Way, theirs: Registered) -> None:
        """Its node is registered elsewhere by now: mostly because the process that was here ended."""
        peer = way.peer
        try:
            peer.take_way("tcp")
        except WeftError:
            now, before = f"{theirs.host}:{theirs.port}", f"{peer.address[0]}:{peer.address[1]}"
            self._say(f"{peer.name} is registered at {now} now; the way to {before} is given up")
            peer.close()

    def _stays(self, way: _Way, choice: Choice, ours: Registered, theirs: Registered) -> bool:
        """Whether nothing is to be done: it was chosen for this record of the peer, and for what counts of ours."""
        if way.chosen_for is None or way.chosen_for[1] != theirs:
            return False
        same_device = choice.transport != "rdma" or way.chosen_for[0].rdma == ours.rdma
        return same_device and choice.transport == way.peer.wanted == way.peer.transport

    def _try_again(self, way: _Way) -> None:
        """The way broke, or did not come up for the last lane. TCP is used meanwhile, which is said once."""
        peer = way.peer
        if way.trouble is None:
            way.trouble = peer.trouble or "its last lane did not come up"
            self._say(f"{peer.wanted} not used with {peer.name} for now, {peer.transport} is: {way.trouble}")
        if peer.retry_way():
            way.trouble = None
            self._say(f"{peer.name} is reached by {peer.transport} again")


def _reasons(way: _Way) -> tuple[str, ...]:
    wanted, used = way.peer.wanted, way.peer.transport
    if wanted in ("tcp", used):
        return way.choice.reasons
    trouble = way.peer.trouble or way.trouble or "its last lane did not come up"
    return (*way.choice.reasons, f"{wanted} not used with {way.peer.name} for now: {trouble}")


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for count in counts:
        for transport, moved in count.items():
            sums[transport] = sums.get(transport, 0) + moved
    return sums
