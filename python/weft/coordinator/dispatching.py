"""Jobs over HTTP: a slot for one, where one is, the end of one; and which models are to be had where.

Weft runs no inference itself: it says where a job is to go, and counts.
"""

from collections.abc import Callable

from weft.api.bodies.placing import Availability, JobBody, JobPlaced, ModelAvailability
from weft.coordinator.jobs import Job, Jobs
from weft.coordinator.observations import Observations
from weft.coordinator.ports import Random
from weft.coordinator.roster import Roster
from weft.coordinator.writer import Writer
from weft.core.placement import JobNeeds, Strategy, choose_candidate, find_candidates, find_models
from weft.model.canonical import canonical_bytes, log_digest
from weft.model.errors import WeftError
from weft.model.ids import NodeId, PlacementId, mint_placement_id, parse_placement_id
from weft.model.pool import DEFAULT_POOL_ID, DEFAULT_REPLICA_ID, PoolKey
from weft.serve import Call
from weft.telemetry import Metrics

_CHANCE_BYTES = 8
_LATENCY_BOUNDS_S = (0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
"""A tenth of a second is what the node seed allows a placement; most take some microseconds for each pool."""


class Dispatching:
    """Answers for jobs. `home` is the profile in which a pool need not have registered for jobs to go to it."""

    def __init__(
        self,
        writer: Writer,
        roster: Roster,
        observations: Observations,
        jobs: Jobs,
        random: Random,
        metrics: Metrics,
        *,
        home: bool,
        strategy: Strategy,
        now_s: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._roster = roster
        self._observations = observations
        self._jobs = jobs
        self._random = random
        self._home = home
        self._strategy = strategy
        self._now_s = now_s
        self._last: PoolKey | None = None
        self._decisions = metrics.counter(
            "weft_placement_decisions_total", "Jobs placed or refused.", ("strategy", "outcome")
        )
        self._latency = metrics.histogram(
            "weft_placement_latency_seconds", "How long deciding on a job's place took.", _LATENCY_BOUNDS_S
        )
        metrics.gauge("weft_placements", "Jobs that have a place.", lambda: len(jobs))

    async def place(self, call: Call) -> JobPlaced:
        """POST /v2/placements."""
        body: JobBody = call.body
        strategy = Strategy(body.strategy) if body.strategy is not None else self._strategy
        # A caller that lost the answer asks again under the same id, and must not hold two slots for one job.
        request = f"{call.request_id}~{log_digest(canonical_bytes(body)).hex()}" if call.request_id_given else None
        if request is not None and (given := self._jobs.find_repeat(request)) is not None:
            return self._show(self._jobs.find(given, self._roster.aside()))
        begun_s = self._now_s()
        try:
            job = self._place(body, strategy)
        except WeftError as error:
            self._decisions.add(1, strategy, error.code)
            raise
        finally:
            self._latency.add(self._now_s() - begun_s)
        self._decisions.add(1, strategy, "placed")
        if request is not None:
            self._jobs.note_request(request, job)
        return self._show(job)

    async def show(self, call: Call) -> JobPlaced:
        """GET /v2/placements/{placement_id}."""
        return self._show(self._jobs.find(parse_placement_id(call.path["placement_id"]), self._roster.aside()))

    async def end(self, call: Call) -> None:
        """DELETE /v2/placements/{placement_id}."""
        self._jobs.end(parse_placement_id(call.path["placement_id"]))

    async def show_availability(self, call: Call) -> Availability:  # noqa: ARG002
        """GET /v2/catalog/availability."""
        found = find_models(self._observations.pools, self._roster.aside())
        replicated = sum(1 for places in found if len(places.nodes) > 1)
        return Availability(
            models=[
                ModelAvailability(
                    model_id=places.model_id,
                    nodes=list(places.nodes),
                    total_nodes=len(places.nodes),
                    total_capacity=places.capacity,
                )
                for places in found
            ],
            total_models=len(found),
            replicated_models=replicated,
            single_node_models=len(found) - replicated,
        )

    def _place(self, body: JobBody, strategy: Strategy) -> Job:
        """Choose and promise in one go: nothing is awaited in between, so nobody else can be given the slot."""
        pools = self._observations.pools
        if self._home and not pools and body.placement is None:
            return self._jobs.keep_fixed(self._mint(), DEFAULT_POOL_ID, DEFAULT_REPLICA_ID)
        preferred, avoided = self._jobs.leaning(body.session) if body.session is not None else (None, None)
        needs = JobNeeds(
            model=body.model,
            vram_bytes=body.vram_bytes or 0,
            devices=frozenset(map(str, body.devices or ())),
            pinned=NodeId(body.placement.node_id) if body.placement is not None else None,
            preferred=preferred,
            avoided=avoided,
        )
        candidates = find_candidates(pools, self._roster.aside(), self._jobs.promised, needs)
        chance = int.from_bytes(self._random.draw(_CHANCE_BYTES), "big") if strategy is Strategy.RANDOM else 0
        chosen = choose_candidate(candidates, needs, strategy, self._last, chance)
        self._last = chosen.key
        return self._jobs.promise(self._mint(), chosen, needs, body.session)

    def _mint(self) -> PlacementId:
        """An id no job has. Two equal draws are next to impossible and still must not take a job's place from it."""
        while (made := mint_placement_id(int.from_bytes(self._random.draw(_CHANCE_BYTES), "big"))) in self._jobs:
            pass
        return made

    def _show(self, job: Job) -> JobPlaced:
        return JobPlaced(
            placement_id=job.placement_id,
            node_id=job.node_id,
            pool_id=job.pool_id,
            replica_id=job.replica_id,
            node_address=self._address(job.node_id) if job.node_id is not None else None,
        )

    def _address(self, node_id: NodeId) -> str | None:
        node = self._writer.state.nodes.get(node_id)
        return node.engines.address if node is not None and node.engines is not None else None
