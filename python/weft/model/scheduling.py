"""What a workload needs, and what the scheduler's weights are: the storage seed's names and units."""

import msgspec


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to run needs. None means that it does not matter."""

    cpu_req: float | None = None
    ram_req_mb: float | None = None
    gpu_req: float | None = None
    max_latency_ms: float | None = None
    io_tolerance: float | None = None


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How much each figure counts. `normalised` has each measured against the best there is, not in its own unit."""

    w_cpu: float
    w_ram: float
    w_gpu: float
    w_latency: float
    w_io: float
    normalised: bool = False


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The weights that hold, and how often they have been set."""

    version: int
    weights: Weights
