"""The scheduler: which node a workload suits best, by what nodes say of themselves.

    score = w_cpu · cpu_free + w_ram · ram_free_mb + w_gpu · gpu_free + w_latency / latency_ms - w_io · io_pressure

A node is refused when it has less of something than is asked for, answers more slowly, or is under more pressure than
the workload tolerates. Of the others the highest score wins, and of equal ones the smaller id. Scores are compared
exactly: "equal within a tolerance" is not transitive, and who wins would follow from who is looked at first.

With the seed's weights the megabytes of free memory outweigh everything else once w_ram is near 1. `normalised` divides
each figure by the best among the candidates first, so that a weight means the same for each of them.
"""

from collections.abc import Collection, Mapping

import msgspec

from weft.core.moment import Moment
from weft.core.state import Draft, View
from weft.model.commands import ConfigureScheduler
from weft.model.errors import NoSuitableNode
from weft.model.events import Event, SchedulerConfigured
from weft.model.ids import NodeId
from weft.model.policy import LATENCY_MS_MIN
from weft.model.scheduling import SchedulerConfig, Weights, Workload
from weft.model.stats import UNKNOWN_STATS, NodeStats

BOOT_CONFIG = SchedulerConfig(version=0, weights=Weights(w_cpu=1.0, w_ram=0.001, w_gpu=2.0, w_latency=50.0, w_io=1.5))
"""What holds until somebody sets something. Not what an omitted weight is set to: the seed has two sets of defaults."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler thinks of one node: a score, or the filter that refused it."""

    node_id: NodeId
    score: float | None = None
    refused: str | None = None


def scheduler_config(view: View) -> SchedulerConfig:
    """The weights that hold."""
    return view.scheduler or BOOT_CONFIG


def decide_configure_scheduler(view: View, command: ConfigureScheduler, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Weights are set as a whole. Those that hold already are not set again."""
    if view.scheduler is not None and view.scheduler.weights == command.weights:
        return ()
    return (SchedulerConfigured(weights=command.weights),)


def apply_scheduler_configured(draft: Draft, event: SchedulerConfigured) -> None:
    """The weights hold, and are one version on."""
    version = draft.scheduler.version if draft.scheduler is not None else 0
    draft.scheduler = SchedulerConfig(version=version + 1, weights=event.weights)


def judge(
    nodes: Collection[NodeId],
    aside: Mapping[NodeId, str],
    stats: Mapping[NodeId, NodeStats],
    workload: Workload,
    weights: Weights,
) -> list[Verdict]:
    """What is thought of every node: the suitable ones by rank, then the refused ones by id.

    `aside` says of nodes that are given no work why not.
    """
    refused: list[Verdict] = []
    suitable: list[tuple[NodeId, NodeStats]] = []
    for node_id in nodes:
        seen = stats.get(node_id, UNKNOWN_STATS)
        why = aside.get(node_id) or _refusal(seen, workload)
        if why is None:
            suitable.append((node_id, seen))
        else:
            refused.append(Verdict(node_id=node_id, refused=why))
    best = _best_of([seen for _, seen in suitable]) if weights.normalised else None
    ranked = [Verdict(node_id=node_id, score=score(seen, weights, best)) for node_id, seen in suitable]
    ranked.sort(key=_rank)
    refused.sort(key=lambda verdict: verdict.node_id)
    return ranked + refused


def choose(verdicts: list[Verdict]) -> NodeId:
    """The node judged best. Raises `NoSuitableNode` when every one was refused, or there is none."""
    if verdicts and verdicts[0].refused is None:
        return verdicts[0].node_id
    raise NoSuitableNode("no suitable node", nodes=len(verdicts))


def score(seen: NodeStats, weights: Weights, best: NodeStats | None = None) -> float:
    """A node's score; relative to `best`, when figures are to be normalised."""
    latency_ms = max(seen.latency_ms, LATENCY_MS_MIN)
    if best is None:
        return (
            weights.w_cpu * seen.cpu_free
            + weights.w_ram * seen.ram_free_mb
            + weights.w_gpu * seen.gpu_free
            + weights.w_latency / latency_ms
            - weights.w_io * seen.io_pressure
        )
    return (
        weights.w_cpu * _share(seen.cpu_free, best.cpu_free)
        + weights.w_ram * _share(seen.ram_free_mb, best.ram_free_mb)
        + weights.w_gpu * _share(seen.gpu_free, best.gpu_free)
        + weights.w_latency * best.latency_ms / latency_ms
        - weights.w_io * seen.io_pressure
    )


def _refusal(seen: NodeStats, workload: Workload) -> str | None:
    """The first filter that refuses a node, as a sentence with both figures."""
    if workload.cpu_req is not None and seen.cpu_free < workload.cpu_req:
        return f"cpu_free {seen.cpu_free:g} is less than {workload.cpu_req:g}"
    if workload.ram_req_mb is not None and seen.ram_free_mb < workload.ram_req_mb:
        return f"ram_free_mb {seen.ram_free_mb:g} is less than {workload.ram_req_mb:g}"
    if workload.gpu_req is not None and seen.gpu_free < workload.gpu_req:
        return f"gpu_free {seen.gpu_free:g} is less than {workload.gpu_req:g}"
    if workload.max_latency_ms is not None and seen.latency_ms > workload.max_latency_ms:
        return f"latency_ms {seen.latency_ms:g} is more than {workload.max_latency_ms:g}"
    if workload.io_tolerance is not None and seen.io_pressure > workload.io_tolerance:
        return f"io_pressure {seen.io_pressure:g} is more than {workload.io_tolerance:g}"
    return None


def _best_of(seen: Collection[NodeStats]) -> NodeStats:
    """The best of each figure."""
    return NodeStats(
        cpu_free=max((one.cpu_free for one in seen), default=0.0),
        ram_free_mb=max((one.ram_free_mb for one in seen), default=0.0),
        gpu_free=max((one.gpu_free for one in seen), default=0.0),
        latency_ms=max(min((one.latency_ms for one in seen), default=0.0), LATENCY_MS_MIN),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _rank(verdict: Verdict) -> tuple[float, NodeId]:
    assert verdict.score is not None, "only nodes with a score are ranked"
    return -verdict.score, verdict.node_id
