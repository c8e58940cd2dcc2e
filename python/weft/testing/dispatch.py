"""What was promised of engine pools, and where work was sent, held against what the coordinator knew at that moment.

Between two words of a node, exactly as many of a pool's slots can be promised as were free by the first. A job that was
lost with its node stays lost. Nothing goes to a node that the log says is offline or drained, or that is not heard.
"""

from typing import Any, Final

import msgspec

from weft.api.bodies.placing import JobPlaced
from weft.coordinator.app import Coordinator
from weft.coordinator.jobs import Job, Jobs
from weft.core.placement import Candidate, JobNeeds
from weft.core.state import Draft
from weft.model.events import ClusterDestroyed, Event, NodeIncarnated, NodeLost, NodeRemoved
from weft.model.ids import NodeId, PlacementId
from weft.model.node import NodeStatus
from weft.model.pool import PoolKey

_PARTICULAR: Final = frozenset({"model", "placement", "devices", "vram_bytes"})
"""What makes a job one that not every pool would do for."""


class Dispatches:
    """The books of one auditor, begun anew with each life of the coordinator: what it promises lives no longer."""

    def __init__(self, breaches: list[str]) -> None:
        self.placed_count = 0
        self.reset_count = 0
        self.full_count = 0
        self._breaches = breaches
        self._coordinator: Coordinator | None = None
        self._begin()

    def attend(self, coordinator: Coordinator) -> None:
        """A coordinator begins."""
        self._begin()
        self._coordinator = coordinator
        coordinator._observations.on_pools(self._on_word)
        coordinator.writer.listen(self._on_merged)
        self._overhear(coordinator._jobs)

    def on_placed(self, placed: JobPlaced) -> None:
        """A job's caller was told of its place. One whose request was repeated may have had it for long."""
        if placed.node_id is None or placed.placement_id in self._node_of:
            return
        self.placed_count += 1
        self._node_of[placed.placement_id] = NodeId(placed.node_id)

    def on_ended(self, placement_id: str) -> None:
        """A job's place was given back, and its caller told so."""
        self._node_of.pop(placement_id, None)
        self._lost.discard(placement_id)

    def on_shown(self, placed: JobPlaced) -> None:
        """A job was said to be in its place."""
        if placed.placement_id in self._lost:
            self._breaches.append(f"{placed.placement_id} was lost with its node and is said to be on {placed.node_id}")

    def on_refused(self, code: str, asked: bytes | None) -> None:
        """A question about jobs was refused. A job that any slot would do for is refused only when there is none."""
        self.reset_count += code == "WORKER_RESET"
        self.full_count += code == "POOL_UNAVAILABLE"
        if code != "POOL_UNAVAILABLE" or _PARTICULAR & msgspec.json.decode(asked or b"{}").keys():
            return
        assert self._coordinator is not None, "who answers has begun"
        aside = self._coordinator._roster.aside()
        for key, allowed in self._allowed.items():
            if key[0] not in aside and len(self._granted.get(key, ())) < allowed:
                self._breaches.append(f"a job was refused while {key[1]} on {key[0]} had a slot for it")

    def on_chosen(self, node_id: NodeId, what: str) -> None:
        """Something was sent to a node."""
        coordinator = self._coordinator
        assert coordinator is not None, "who answers has begun"
        node = coordinator.writer.state.nodes.get(node_id)
        if node is None or node.status is NodeStatus.OFFLINE or node.drained:
            told = "unknown" if node is None else "drained" if node.drained else str(node.status)
            self._breaches.append(f"{what} was sent to {node_id}, which is {told}")
        elif (why := coordinator._roster.aside().get(node_id)) is not None:
            self._breaches.append(f"{what} was sent to {node_id}, and {why}")

    def on_ring(self, placed: list[Any], replicas: int) -> None:
        """The ring named nodes for a key."""
        coordinator = self._coordinator
        assert coordinator is not None, "who answers has begun"
        aside = coordinator._roster.aside()
        there = sum(node_id not in aside for node_id in coordinator.writer.state.nodes.keys())  # noqa: SIM118
        if len(set(placed)) != len(placed) or len(placed) != min(replicas, there):
            self._breaches.append(f"the ring named {placed} for {replicas} replicas on {there} nodes")
        for node_id in placed:
            self.on_chosen(NodeId(str(node_id)), "a replica")

    def _overhear(self, jobs: Jobs) -> None:
        """Hear of slots when they are given and given back: an answer may be lost, and told under a later word."""
        promise, end = jobs.promise, jobs.end

        def promised(placement_id: PlacementId, candidate: Candidate, needs: JobNeeds, session: str | None) -> Job:
            job = promise(placement_id, candidate, needs, session)
            self._on_promised(job)
            return job

        def ended(placement_id: PlacementId) -> None:
            end(placement_id)
            for granted in self._granted.values():
                granted.discard(placement_id)

        jobs.promise, jobs.end = promised, ended  # type: ignore[method-assign]

    def _on_promised(self, job: Job) -> None:
        assert job.node_id is not None, "only the home profile's one place is no node's, and it is not promised"
        key = (job.node_id, job.pool_id, job.replica_id)
        granted = self._granted.setdefault(key, set())
        granted.add(job.placement_id)
        allowed = self._allowed.get(key, 0)
        if len(granted) > allowed:
            self._breaches.append(
                f"{len(granted)} jobs were given slots of {job.pool_id} on {job.node_id}, which had {allowed} free"
            )
        self.on_chosen(job.node_id, "a job")

    def _begin(self) -> None:
        self._allowed: dict[PoolKey, int] = {}
        self._granted: dict[PoolKey, set[str]] = {}
        self._node_of: dict[str, NodeId] = {}
        self._lost: set[str] = set()

    def _on_word(self, node_id: NodeId) -> None:
        """A node described its pools, or what it had said of them was forgotten."""
        assert self._coordinator is not None
        for key in [key for key in self._allowed if key[0] == node_id]:
            del self._allowed[key]
            self._granted.pop(key, None)
        for pool in self._coordinator._observations.pools_of(node_id).values():
            self._allowed[node_id, *pool.seat] = pool.slots_free if pool.is_open else 0

    def _on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        for event in events:
            if isinstance(event, NodeLost | NodeRemoved | NodeIncarnated):
                self._lost |= {job for job, node_id in self._node_of.items() if node_id == event.node_id}
            elif isinstance(event, ClusterDestroyed):
                self._lost |= self._node_of.keys()
