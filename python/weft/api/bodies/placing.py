"""Where things go: the ring, the scheduler, jobs on engine pools, and which models are to be had where.

The storage seed's bodies ignore what they do not know; the placement of jobs is Weft's own and refuses it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count, Name, NodeIdText
from weft.model.policy import POOL_DEVICES_MAX, REPLICA_COUNT, REPLICA_COUNT_MAX, WEIGHT_MAX

Amount = Annotated[float, Meta(ge=0)]
Weight = Annotated[float, Meta(ge=0, le=WEIGHT_MAX)]
StrategyName = Literal["round-robin", "least-loaded", "random"]


class PlacementQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas are wanted."""

    rf: Annotated[int, Meta(ge=0, le=REPLICA_COUNT_MAX)] = REPLICA_COUNT


class WorkloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload needs. What is left out, or null, does not matter."""

    cpu_req: Amount | None = None
    ram_req_mb: Amount | None = None
    gpu_req: Amount | None = None
    max_latency_ms: Amount | None = None
    io_tolerance: Amount | None = None


class ExplainQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to say what was thought of every node."""

    explain: bool = False


class VerdictInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler thought of one node: a score, or the filter that refused it."""

    node_id: str
    score: float | None
    refused: str | None


class Scheduled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The node that suits best; with `?explain=1`, all of them in order of rank."""

    node_id: str
    explanation: list[VerdictInfo] | None = None


class WeightsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The weights, each with what it is set to when it is left out. These are the seed's, and not those it boots with.

    `normalised` is Weft's own: every figure is measured against the best among the candidates.
    """

    w_cpu: Weight = 1.0
    w_ram: Weight = 1.0
    w_gpu: Weight = 0.5
    w_latency: Weight = 0.8
    w_io: Weight = 0.6
    normalised: bool = False


class SchedulerConfigInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The weights that hold, and how often they have been set."""

    w_cpu: float
    w_ram: float
    w_gpu: float
    w_latency: float
    w_io: float
    normalised: bool
    version: int


class SchedulerConfigured(msgspec.Struct, frozen=True, kw_only=True):
    """The weights are set."""

    ok: Literal[True] = True
    message: Literal["scheduler config updated"] = "scheduler config updated"
    config: SchedulerConfigInfo


class PinBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node a job has to be on."""

    node_id: NodeIdText


class JobBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job needs of an engine pool, and how to choose among those that have it.

    `devices` are device names or numbers the pool has to run on; `session` keeps the jobs of one conversation on one
    node while it has room. Without a strategy the coordinator's own is taken.
    """

    model: Name | None = None
    vram_bytes: Count | None = None
    devices: Annotated[list[Count | Name], Meta(max_length=POOL_DEVICES_MAX)] | None = None
    session: Name | None = None
    placement: PinBody | None = None
    strategy: StrategyName | None = None


class JobPlaced(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job goes. In the home profile, where nobody registered, `node_id` and `node_address` are null."""

    placement_id: str
    node_id: str | None
    pool_id: str
    replica_id: str
    node_address: str | None


class ModelAvailability(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that have a model, and how many slots their pools with it have."""

    model_id: str
    nodes: list[str]
    total_nodes: int
    total_capacity: int


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """Every model some living node has. A replicated model is one that more than one node has."""

    models: list[ModelAvailability]
    total_models: int
    replicated_models: int
    single_node_models: int
