"""Beats: what was last heard of every node, and the beats that wait for news.

Observations live here and nowhere else. A beat becomes a command only when it means something new: another life of the
node, a return, an extent backed or lost, a region let go of. Otherwise it is remembered, and either answered at once,
because the node should hold something else than it does, or kept until it should.

What if a waiting beat's node dies? Its connection closes and the beat is dropped; a machine that loses power closes
nothing, and counts as heard until the wait it asked for ends. What if a node sends two? The older one is answered, so
one node never holds more than one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from weft.api.bodies.beat import PeerReport
from weft.coordinator.changes import Changes
from weft.coordinator.ports import Clock
from weft.coordinator.pulse import Pulse
from weft.coordinator.writer import Writer, internal_cause
from weft.core.beat import Report, conclude
from weft.core.holding import target_generation
from weft.core.liveness import NO_VERDICT, Patience, Standing, Verdict, judge, standing
from weft.core.node import existing_node
from weft.core.region import USABLE_STATES
from weft.core.state import Draft
from weft.model.commands import AdmitBeat
from weft.model.errors import IncarnationRetired
from weft.model.events import (
    ClusterDestroyed,
    Event,
    NodeDescribed,
    NodeIncarnated,
    NodeRegistered,
    NodeRemoved,
    NodeReturned,
    RegionPlanned,
    RegionRemoved,
)
from weft.model.ids import Generation, Incarnation, NodeId, RegionId
from weft.model.node import Node, NodeStatus

_ADMITTED_ANEW: Final = (NodeStatus.JOINING, NodeStatus.OFFLINE)
"""Where a beat is a fact, and not only one more observation."""


class Heard(NamedTuple):
    """What a node last said, and when. `before` is the beat before it in the same life, for rates."""

    report: Report
    counters: Mapping[str, int]
    at_ms: int
    before: "Heard | None"
    peers: Sequence[PeerReport] = ()


class Ended(Enum):
    """Why a beat stopped waiting."""

    CHANGED = auto()
    ELAPSED = auto()
    LEFT = auto()


class Beats:
    """The ear of the coordinator."""

    def __init__(self, clock: Clock, changes: Changes, patience: Patience, pulse: Pulse) -> None:
        self.patience = patience
        self._clock = clock
        self._pulse = pulse
        pulse.on_stopped(self.excuse)
        self._changes = changes
        self._writer: Writer | None = None
        self._heard: dict[NodeId, Heard] = {}
        self._reports: dict[NodeId, Report] = {}
        self._heard_at_ms: dict[NodeId, int] = {}
        self._offline: set[NodeId] = set()
        self._known_at_ms: dict[RegionId, int] = {}
        self._verdict: tuple[int, Verdict] = (-1, NO_VERDICT)
        self._waiting: dict[NodeId, asyncio.Future[Ended]] = {}
        self._draining = False

    def attend(self, writer: Writer) -> None:
        """Begin to listen. Nodes the log knows count as heard now: nobody could have heard them before.

        That is the grace at the start: a coordinator that was away gives every node a whole time-out to be heard in.
        """
        self._writer = writer
        writer.listen(self._on_merged)
        for node in writer.state.nodes.values():
            self._note_status(node)
        self._known_at_ms = dict.fromkeys(writer.state.regions.keys(), self._clock.monotonic_ms())
        self.begin_anew()

    def begin_anew(self) -> None:
        """Every node that beats counts as heard now, those too that came while another coordinator was beaten to.

        Without it a node that died together with the old writer would never be missed by the new one.
        """
        assert self._writer is not None, "beats are attended to"
        now_ms = self._clock.monotonic_ms()
        for node in self._writer.state.nodes.values():
            if node.is_watched:
                self._heard_at_ms[node.node_id] = now_ms
        self._verdict = (-1, NO_VERDICT)

    @property
    def is_attended(self) -> bool:
        """Whether `attend` was called. Before it a term may begin, and nobody could have been heard."""
        return self._writer is not None

    @property
    def heard(self) -> Mapping[NodeId, Heard]:
        """What was last heard, by node."""
        return self._heard

    def peers_of(self, node_id: NodeId) -> Sequence[PeerReport]:
        """How far a node last found its peers to be."""
        heard = self._heard.get(node_id)
        return () if heard is None else heard.peers

    @property
    def waiting_count(self) -> int:
        """How many beats wait."""
        return len(self._waiting)

    @property
    def reports(self) -> Mapping[NodeId, Report]:
        """What was last reported of extents, by node."""
        return self._reports

    def silence_ms(self, node_id: NodeId) -> int | None:
        """How long ago a node was heard, or None if it never was. One whose beat waits here is heard now."""
        if node_id in self._waiting:
            return 0
        self._pulse.look()
        at_ms = self._heard_at_ms.get(node_id)
        return None if at_ms is None else max(0, self._clock.monotonic_ms() - at_ms)

    def silent(self, for_ms: int | None = None) -> frozenset[NodeId]:
        """The nodes not heard for so long, or for long enough to be suspected of being no longer there."""
        if for_ms is not None:
            return frozenset(self._silences_ms(for_ms))
        assert self._writer is not None, "beats are attended to"
        nodes, patience = self._writer.state.nodes, self.patience
        shortest_ms = min(patience.silent_ms, patience.timeout_ms * 2 // 3)
        return frozenset(
            node_id
            for node_id, silence_ms in self._silences_ms(shortest_ms).items()
            if (node := nodes.get(node_id)) is not None and silence_ms > patience.suspect_ms(node)
        )

    def standing(self, node: Node) -> Standing:
        """Where a node stands at this moment, whether or not a sweep has been by."""
        silence_ms = self.silence_ms(node.node_id)
        late = silence_ms is not None and silence_ms > self.patience.timeout_ms
        doubted = late and node.node_id in self.verdict().doubted
        return standing(node, silence_ms, self.patience, doubted)

    def verdict(self) -> Verdict:
        """The nodes that are past their time and not written off yet. One look serves everybody in its millisecond."""
        self._pulse.look()
        now_ms = self._clock.monotonic_ms()
        if self._verdict[0] != now_ms:
            late = self._silences_ms(self.patience.timeout_ms)
            fresh = {node_id: silence_ms for node_id, silence_ms in late.items() if node_id not in self._offline}
            watched_count = len(self._heard_at_ms) - len(self._offline & self._heard_at_ms.keys())
            self._verdict = (now_ms, judge(fresh, watched_count, self.patience) if fresh else NO_VERDICT)
        return self._verdict[1]

    def forgettable(self) -> list[NodeId]:
        """The nodes that have been offline for longer than anybody waits for them."""
        longest_ms = self.patience.timeout_ms + self.patience.purge_ms
        return [node_id for node_id in self._silences_ms(longest_ms) if node_id in self._offline]

    def excuse(self, duration_ms: int) -> None:
        """This process could hear nobody for so long; let no node's silence be longer for it, and no region older.

        A node whose beat waits here was heard until the process could hear nobody.
        """
        now_ms = self._clock.monotonic_ms()
        heard_at_ms = {node_id: min(now_ms, at_ms + duration_ms) for node_id, at_ms in self._heard_at_ms.items()}
        for node_id in self._waiting:
            if heard_at_ms.pop(node_id, None) is not None:
                heard_at_ms[node_id] = now_ms
        self._heard_at_ms = heard_at_ms
        self._known_at_ms = {
            region_id: min(now_ms, at_ms + duration_ms) for region_id, at_ms in self._known_at_ms.items()
        }
        self._verdict = (-1, NO_VERDICT)

    def notice(self, node_id: NodeId) -> None:
        """A node was heard, in whatever way. One nobody promised beats for is not watched because of it."""
        if node_id in self._heard_at_ms:
            self._mark_heard(node_id)

    def holds(self, node_id: NodeId, generation: Generation) -> bool:
        """Whether a node's present life has said that it holds this generation of its target, or a later one."""
        assert self._writer is not None, "beats are attended to"
        node, heard = self._writer.state.nodes.get(node_id), self._heard.get(node_id)
        return (
            node is not None
            and heard is not None
            and heard.report.incarnation == node.incarnation
            and heard.report.generation >= generation
        )

    def age_ms(self, region_id: RegionId) -> int:
        """How long this process has known of a region. One that the log knew before counts from its start."""
        self._pulse.look()
        now_ms = self._clock.monotonic_ms()
        return now_ms - self._known_at_ms.get(region_id, now_ms)

    async def hear_of(self, node_id: NodeId) -> Node:
        """Take in a beat of the pools door, which names no life. The node as it is now; raises `NodeNotFound`."""
        writer = self._writer
        assert writer is not None, "beats are attended to"
        node = existing_node(writer.state, node_id)
        if node.status in _ADMITTED_ANEW or not node.is_watched:
            command = AdmitBeat(node_id=node_id, incarnation=None)
            await writer.submit(command, internal_cause(f"beat:{node_id}"))
            node = existing_node(writer.state, node_id)
        self._mark_heard(node_id)
        self._changes.notice()
        return node

    async def hear(
        self,
        node_id: NodeId,
        report: Report,
        counters: Mapping[str, int],
        lend_bytes: int | None = None,
        peers: Sequence[PeerReport] = (),
        draining: bool = False,
    ) -> None:
        """Take a beat in, and have decided whatever it means. Raises what refuses it."""
        writer = self._writer
        assert writer is not None, "beats are attended to"
        node = existing_node(writer.state, node_id)
        if node.incarnation not in (None, report.incarnation) and node_id in self._waiting:
            # A dead process's waiting beat ends with its connection, so whoever waits here lives.
            raise IncarnationRetired(
                f"a node named {node_id} is running already; give this one a name of its own with --name",
                node_id=node_id,
            )
        lends_otherwise = lend_bytes is not None and lend_bytes != node.lend_bytes
        is_news = node.status is NodeStatus.OFFLINE or lends_otherwise or (draining and not node.drained)
        if node.incarnation != report.incarnation or is_news:
            command = AdmitBeat(
                node_id=node_id, incarnation=report.incarnation, lend_bytes=lend_bytes, draining=draining
            )
            await writer.submit(command, internal_cause(f"beat:{node_id}"))
            # The node may have gone, or gone on to another life, while this was being decided.
            self._check_life(node_id, report.incarnation)
        earlier = self._heard.get(node_id)
        if earlier is not None:
            same_life = earlier.report.incarnation == report.incarnation
            earlier = earlier._replace(before=None) if same_life else None
        self._reports[node_id] = report
        self._heard[node_id] = Heard(report, counters, self._clock.monotonic_ms(), earlier, peers)
        self._mark_heard(node_id)
        self._changes.notice()
        await self._settle(writer, node_id, report)
        # Again: whoever goes on to what else the beat said must not note it of a node that is no more.
        self._check_life(node_id, report.incarnation)

    async def wait_for_news(
        self,
        node_id: NodeId,
        incarnation: Incarnation,
        generation: Generation,
        wait_ms: int,
        caller_left: Callable[[], Awaitable[None]],
    ) -> None:
        """Return when the node should hold another generation than this, or the time has passed.

        What if it is given up while its beat waits here, because that was decided before the beat came? Who is answered
        is there, so it is back before the answer.

        Raises `NodeNotFound` or `IncarnationRetired` when the node, or this life of it, ended in the meantime.
        """
        writer = self._writer
        assert writer is not None, "beats are attended to"
        if wait_ms > 0 and not self._draining and target_generation(writer.state, node_id) == generation:
            ended = await self._wait(node_id, wait_ms, caller_left)
            if ended is Ended.LEFT:
                self._check_life(node_id, incarnation)
                return
            if node_id in self._heard:
                self._mark_heard(node_id)
        self._check_life(node_id, incarnation)
        if existing_node(writer.state, node_id).status is NodeStatus.OFFLINE:
            command = AdmitBeat(node_id=node_id, incarnation=incarnation)
            await writer.submit(command, internal_cause(f"beat:{node_id}"))
            self._check_life(node_id, incarnation)

    def answer(self, node_id: NodeId) -> None:
        """Answer the beat of a node that waits here: there is news for it that is no change of its target."""
        self._release(node_id, Ended.CHANGED)

    def drain(self) -> None:
        """The process is stopping: answer every beat that waits, and keep none from now on."""
        self._draining = True
        for node_id in list(self._waiting):
            self._release(node_id, Ended.CHANGED)

    async def _wait(self, node_id: NodeId, wait_ms: int, caller_left: Callable[[], Awaitable[None]]) -> Ended:
        self._release(node_id, Ended.CHANGED)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ended] = loop.create_future()
        self._waiting[node_id] = future
        timer = loop.call_later(wait_ms / 1_000, _end, future, Ended.ELAPSED)
        leaving = asyncio.ensure_future(caller_left())
        leaving.add_done_callback(lambda task: _end(future, Ended.LEFT) if not task.cancelled() else None)
        try:
            return await future
        finally:
            timer.cancel()
            leaving.cancel()
            if self._waiting.get(node_id) is future:
                del self._waiting[node_id]

    def _check_life(self, node_id: NodeId, incarnation: Incarnation) -> None:
        assert self._writer is not None, "beats are attended to"
        if existing_node(self._writer.state, node_id).incarnation != incarnation:
            raise IncarnationRetired(f"node {node_id} has begun a newer life than this process's", node_id=node_id)

    async def _settle(self, writer: Writer, node_id: NodeId, report: Report) -> None:
        """Have decided what this report means for the regions the node has to do with."""
        for region_id in writer.state.holdings.get(node_id) or ():
            region = writer.state.regions.get(region_id)
            if region is None or (region.state in USABLE_STATES and not report.failed):
                continue
            command = conclude(writer.state, region, self._reports, self.silent(), self.age_ms(region_id))
            if command is not None:
                await writer.submit(command, internal_cause(f"beat:{node_id}"))

    def _mark_heard(self, node_id: NodeId) -> None:
        """Move a node to the end of the table, which is its order of hearing."""
        self._heard_at_ms.pop(node_id, None)
        self._heard_at_ms[node_id] = self._clock.monotonic_ms()
        self._verdict = (-1, NO_VERDICT)

    def _silences_ms(self, longer_than_ms: int) -> dict[NodeId, int]:
        """Who has been silent for longer. The table is in order of hearing, so this looks no further than it must."""
        self._pulse.look()
        now_ms = self._clock.monotonic_ms()
        quiet: dict[NodeId, int] = {}
        for node_id, at_ms in self._heard_at_ms.items():
            if now_ms - at_ms <= longer_than_ms:
                break
            if node_id not in self._waiting:
                quiet[node_id] = now_ms - at_ms
        return quiet

    def _note_status(self, node: Node) -> None:
        if node.status is NodeStatus.OFFLINE:
            self._offline.add(node.node_id)
        else:
            self._offline.discard(node.node_id)

    def _on_merged(self, draft: Draft, events: list[Event]) -> None:
        """Wake the beats whose target this batch changed, and forget what is gone."""
        for event in events:
            if isinstance(event, RegionPlanned):
                self._known_at_ms[event.region_id] = self._clock.monotonic_ms()
            elif isinstance(event, RegionRemoved):
                self._known_at_ms.pop(event.region_id, None)
            elif isinstance(event, NodeRemoved):
                self._forget(event.node_id)
            elif isinstance(event, ClusterDestroyed):
                self._known_at_ms.clear()
                for node_id in [*self._heard_at_ms, *self._offline]:
                    self._forget(node_id)
            elif isinstance(event, NodeRegistered) and event.node.engines is not None:
                self._mark_heard(event.node.node_id)
            elif isinstance(event, NodeDescribed) and event.engines is not None:
                self._mark_heard(event.node_id)
            elif isinstance(event, NodeIncarnated | NodeReturned):
                # And not when the beat that said so is answered, which waits for a layer, or never is for want of one.
                self._mark_heard(event.node_id)
        for node_id in draft.nodes.changed:
            if (node := draft.nodes.get(node_id)) is not None:
                self._note_status(node)
        self._verdict = (-1, NO_VERDICT)
        if not self._waiting:
            return
        before = draft.base_marks.sequence
        if draft.marks.endpoints_generation > before:
            changed = list(self._waiting)
        else:
            changed = [node_id for node_id in draft.nodes.changed if target_generation(draft, node_id) > before]
        for node_id in changed:
            self._release(node_id, Ended.CHANGED)

    def _forget(self, node_id: NodeId) -> None:
        self._heard.pop(node_id, None)
        self._reports.pop(node_id, None)
        self._heard_at_ms.pop(node_id, None)
        self._offline.discard(node_id)
        self._release(node_id, Ended.CHANGED)

    def _release(self, node_id: NodeId, why: Ended) -> None:
        future = self._waiting.pop(node_id, None)
        if future is not None:
            _end(future, why)


def _end(future: "asyncio.Future[Ended]", why: Ended) -> None:
    if not future.done():
        future.set_result(why)
