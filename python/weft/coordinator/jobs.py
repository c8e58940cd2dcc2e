"""Jobs on engine pools: which job has which slot, and which session was last where.

All of it is observation, held in memory: a job ends with its node or with its caller, and nothing about it would mean
anything to a coordinator that replays the log. After a restart the nodes' next beats say which slots are free.

A slot is promised to a job from the moment it is chosen until its node speaks next: from then on the node's own count
has the job in it. Choosing and promising happen without a pause between them, so of a hundred callers who ask for four
slots at once four are given one.

What if a node speaks after a job was placed and before the job reached it? Then the slot shows as free once more, and
may be promised twice; the pool refuses the second job, as it has to refuse any it has no room for.

What if the answer to the end of a job is lost, and the caller ends it again? Ended jobs are remembered, as many as
there may be jobs, and ending one of them says the same again and frees nothing. To a coordinator that was started in
between the job is unknown, which means the same to the caller: it holds no slot.

What if a copy of the request that placed a job arrives late, when the job was reset or is over? The request is
remembered longer than the job, and its repeat is told what became of the job; it is never placed a second time.
"""

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from weft.coordinator.ports import Clock
from weft.coordinator.roster import LOST_REASONS
from weft.core.placement import Candidate, JobNeeds, Promised
from weft.core.state import Draft
from weft.model.errors import PlacementNotFound, WorkerReset
from weft.model.events import ClusterDestroyed, Event, NodeIncarnated, NodeLost, NodeRemoved
from weft.model.ids import NodeId, PlacementId
from weft.model.policy import PLACEMENTS_MAX, SESSION_MS, SESSIONS_MAX
from weft.model.pool import PoolKey


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job and its place. `node_id` None is the fixed place of the home profile, which no node can be lost from."""

    placement_id: PlacementId
    node_id: NodeId | None
    pool_id: str
    replica_id: str
    vram_bytes: int = 0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Where a conversation was last served, or which node failed it and is avoided while another would do."""

    node_id: NodeId
    failed: bool
    at_ms: int


class Jobs:
    """The table of jobs, with the slots promised to them."""

    def __init__(
        self,
        clock: Clock,
        *,
        jobs_max: int = PLACEMENTS_MAX,
        sessions_max: int = SESSIONS_MAX,
        session_ms: int = SESSION_MS,
    ) -> None:
        self._clock = clock
        self._jobs_max, self._sessions_max, self._session_ms = jobs_max, sessions_max, session_ms
        self._jobs: OrderedDict[PlacementId, Job] = OrderedDict()
        self._on_node: dict[NodeId, set[PlacementId]] = {}
        self._lost: set[PlacementId] = set()
        # In order of their end, the earliest first.
        self._ended: OrderedDict[PlacementId, None] = OrderedDict()
        self._promised: dict[PoolKey, Promised] = {}
        self._counted_on: dict[NodeId, dict[PlacementId, PoolKey]] = {}
        self._by_request: OrderedDict[str, PlacementId] = OrderedDict()
        # In order of use, the one idle for longest first.
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, placement_id: object, /) -> bool:
        return placement_id in self._jobs or placement_id in self._ended

    @property
    def promised(self) -> Mapping[PoolKey, Promised]:
        """What of each pool was promised since its node last spoke."""
        return self._promised

    def leaning(self, session: str) -> tuple[NodeId | None, NodeId | None]:
        """The node a session prefers, and the one it avoids."""
        seen = self._sessions.get(session)
        if seen is None or self._clock.monotonic_ms() - seen.at_ms > self._session_ms:
            return None, None
        return (None, seen.node_id) if seen.failed else (seen.node_id, None)

    def promise(self, placement_id: PlacementId, candidate: Candidate, needs: JobNeeds, session: str | None) -> Job:
        """Give a slot of a candidate to a job."""
        job = Job(
            placement_id=placement_id,
            node_id=candidate.node_id,
            pool_id=candidate.pool.pool_id,
            replica_id=candidate.pool.replica_id,
            vram_bytes=needs.vram_bytes,
        )
        taken = self._promised.get(candidate.key, Promised())
        self._promised[candidate.key] = Promised(taken.slots + 1, taken.vram_bytes + needs.vram_bytes)
        self._counted_on.setdefault(candidate.node_id, {})[placement_id] = candidate.key
        self._on_node.setdefault(candidate.node_id, set()).add(placement_id)
        if session is not None:
            self._note_session(session, candidate.node_id, failed=False)
        self._keep(job)
        return job

    def find_repeat(self, request: str) -> PlacementId | None:
        """The job a request was given before, whatever has become of it, while the request is remembered."""
        return self._by_request.get(request)

    def note_request(self, request: str, job: Job) -> None:
        """Remember which request a job was given to, so that its repeat is given the same one."""
        self._by_request[request] = job.placement_id
        if len(self._by_request) > self._jobs_max:
            self._by_request.popitem(last=False)

    def keep_fixed(self, placement_id: PlacementId, pool_id: str, replica_id: str) -> Job:
        """Note a job in the one place of the home profile, which has no slots to count."""
        job = Job(placement_id=placement_id, node_id=None, pool_id=pool_id, replica_id=replica_id)
        self._keep(job)
        return job

    def find(self, placement_id: PlacementId, aside: Mapping[NodeId, str]) -> Job:
        """A job. Raises `WorkerReset` when its node was lost, and from then on for good, also when the node returns."""
        job = self._known(placement_id)
        if job.node_id is not None and placement_id not in self._lost and aside.get(job.node_id) in LOST_REASONS:
            self.lose_node(job.node_id)
        if placement_id in self._lost:
            raise WorkerReset(
                f"node {job.node_id} was lost, and the job with it; place it again",
                placement_id=placement_id,
                node_id=job.node_id,
            )
        return job

    def end(self, placement_id: PlacementId) -> None:
        """A job is over. What it was promised and its node has not counted yet is free again, once however often."""
        if placement_id in self._ended:
            return
        job = self._known(placement_id)
        self._release(placement_id, job)
        self._drop(placement_id, job)
        self._ended[placement_id] = None
        if len(self._ended) > self._jobs_max:
            self._ended.popitem(last=False)

    def settle(self, node_id: NodeId) -> None:
        """A node spoke: what was promised of it is in its own count now."""
        for key in self._counted_on.pop(node_id, {}).values():
            self._promised.pop(key, None)

    def lose_node(self, node_id: NodeId) -> None:
        """A node was lost, and every job on it.

        What was promised of it stays promised: should it come back, its pools are described as they were until it
        speaks of them, and somebody may ask in between.
        """
        self._lost |= self._on_node.pop(node_id, set())
        for session, seen in list(self._sessions.items()):
            if seen.node_id == node_id and not seen.failed:
                self._note_session(session, node_id, failed=True)

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Lose the jobs of nodes a batch took away, or whose life it ended."""
        for event in events:
            if isinstance(event, NodeLost | NodeRemoved | NodeIncarnated):
                self.lose_node(event.node_id)
            elif isinstance(event, ClusterDestroyed):
                for node_id in list(self._on_node):
                    self.lose_node(node_id)

    def _known(self, placement_id: PlacementId) -> Job:
        job = self._jobs.get(placement_id)
        if job is None:
            raise PlacementNotFound(f"no placement {placement_id}; it was given back, or is long ago")
        return job

    def _keep(self, job: Job) -> None:
        """Remember a job, and let the oldest go. What was promised to that one stays until its node speaks."""
        self._jobs[job.placement_id] = job
        if len(self._jobs) > self._jobs_max:
            self._drop(*next(iter(self._jobs.items())))

    def _release(self, placement_id: PlacementId, job: Job) -> None:
        if job.node_id is None or (key := self._counted_on.get(job.node_id, {}).pop(placement_id, None)) is None:
            return
        taken = self._promised[key]
        if taken.slots > 1:
            self._promised[key] = Promised(taken.slots - 1, taken.vram_bytes - job.vram_bytes)
        else:
            del self._promised[key]

    def _drop(self, placement_id: PlacementId, job: Job) -> None:
        del self._jobs[placement_id]
        self._lost.discard(placement_id)
        if job.node_id is not None and (on_node := self._on_node.get(job.node_id)) is not None:
            on_node.discard(placement_id)
            if not on_node:
                del self._on_node[job.node_id]

    def _note_session(self, session: str, node_id: NodeId, *, failed: bool) -> None:
        self._sessions[session] = Session(node_id=node_id, failed=failed, at_ms=self._clock.monotonic_ms())
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)
