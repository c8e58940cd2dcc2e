"""Where things go: keys on the ring, workloads on nodes, jobs on engine pools."""

from typing import Final

from weft.api.bodies import placing
from weft.api.errors import Family
from weft.api.route import WRITE_ERRORS, Route
from weft.model import errors

PLACING: Final[tuple[Route, ...]] = (
    Route(
        operation="place_key",
        method="GET",
        path="/placement/{hash}",
        any_key=True,
        summary="The nodes a key belongs on, the first one first. No node twice, and no zone twice before every one.",
        family=Family.STORAGE,
        query=placing.PlacementQuery,
        reply=list[str],
    ),
    Route(
        operation="schedule",
        method="POST",
        path="/schedule",
        summary="The node that suits a workload best; with explain=1, what was thought of every node.",
        family=Family.STORAGE,
        body=placing.WorkloadBody,
        query=placing.ExplainQuery,
        reply=placing.Scheduled,
        errors=(errors.NoSuitableNode,),
    ),
    Route(
        operation="configure_scheduler",
        method="POST",
        path="/scheduler/config",
        summary="Weigh nodes otherwise from now on. A weight that is left out is set to the seed's default.",
        family=Family.STORAGE,
        body=placing.WeightsBody,
        reply=placing.SchedulerConfigured,
        errors=WRITE_ERRORS,
    ),
    Route(
        operation="show_scheduler_config",
        method="GET",
        path="/scheduler/config",
        summary="The weights that hold.",
        family=Family.STORAGE,
        reply=placing.SchedulerConfigInfo,
    ),
    Route(
        operation="place_job",
        method="POST",
        path="/v2/placements",
        summary="A free slot of an engine pool for a job, reserved until its node speaks next.",
        family=Family.POOLS,
        body=placing.JobBody,
        reply=placing.JobPlaced,
        errors=(
            errors.PoolUnavailable,
            errors.ModelNotAvailable,
            errors.NodeUnavailable,
            errors.PlacementNotFound,
            errors.WorkerReset,
        ),
    ),
    Route(
        operation="show_job",
        method="GET",
        path="/v2/placements/{placement_id}",
        summary="Where a job is; WORKER_RESET when its node was lost, and the job with it.",
        family=Family.POOLS,
        reply=placing.JobPlaced,
        errors=(errors.PlacementNotFound, errors.WorkerReset),
    ),
    Route(
        operation="end_job",
        method="DELETE",
        path="/v2/placements/{placement_id}",
        summary="A job is done; its slot is free again, if its node has not said so. Saying it again is harmless.",
        family=Family.POOLS,
        status=204,
        errors=(errors.PlacementNotFound,),
    ),
    Route(
        operation="show_availability",
        method="GET",
        path="/v2/catalog/availability",
        summary="Which nodes have which models.",
        family=Family.POOLS,
        reply=placing.Availability,
        cloud_only=True,
        errors=(errors.CloudProfileOff,),
    ),
)
