"""The cluster in numbers. What faults cost is what agents report in their beats, and 0.0 when nobody reports any.

A counter an agent reports only grows in one life of it. A rate is what a counter grew between a node's last two beats
over the time between them, or over `window_seconds` when the agent says what time its counters cover.
"""

from weft.api.bodies.cluster import MetricsBody
from weft.coordinator.beats import Beats, Heard
from weft.coordinator.writer import Writer
from weft.core.cluster import existing_cluster
from weft.core.region import can_lend
from weft.model.node import NodeStatus
from weft.serve import Call, Content
from weft.telemetry import PROMETHEUS_TYPE, Metrics


class Numbers:
    """Answers GET /metrics, in two dialects."""

    def __init__(self, writer: Writer, beats: Beats, metrics: Metrics) -> None:
        self._writer = writer
        self._beats = beats
        self._metrics = metrics
        state = writer.state
        metrics.gauge("weft_log_position", "The last merged place in the log.", lambda: state.marks.position)
        metrics.gauge("weft_nodes", "Nodes in the cluster.", lambda: len(state.nodes))
        metrics.gauge("weft_nodes_silent", "Nodes that beat and were not heard of late.", lambda: len(beats.silent()))
        metrics.gauge("weft_regions", "Regions in any state.", lambda: len(state.regions))
        metrics.gauge("weft_attachments", "Open attachments.", lambda: len(state.attachments))
        metrics.gauge("weft_lent_bytes", "Memory lent by nodes that can be given work.", self._lent_bytes)
        metrics.gauge("weft_reserved_bytes", "Memory planned on, by all nodes.", self._reserved_bytes)
        metrics.gauge("weft_remote_faults_per_second", "Remote faults of all nodes, as last reported.", self._rate)
        metrics.gauge("weft_remote_miss_ratio", "Remote faults over all faults, as last reported.", self._miss_ratio)
        metrics.gauge("weft_remote_fault_us_mean", "Mean time of a remote fault, as last reported.", self._mean_us)

    async def show(self, call: Call) -> MetricsBody | Content:
        """GET /metrics."""
        accept = call.header(b"accept") or b""
        if b"text/plain" in accept or b"openmetrics" in accept:
            return Content(self._metrics.text().encode(), PROMETHEUS_TYPE.encode())
        state = self._writer.state
        cluster = existing_cluster(state)
        active = [node for node in state.nodes.values() if self._beats.standing(node).status is NodeStatus.ONLINE]
        return MetricsBody(
            cluster_name=cluster.name,
            total_nodes=len(state.nodes),
            active_nodes=len(active),
            total_memory_mb=sum(node.memory_mb for node in active),
            total_vcpus=sum(node.cpu_count for node in active),
            remote_fault_rate=self._rate(),
            remote_miss_ratio=self._miss_ratio(),
            avg_fault_latency_us=self._mean_us(),
        )

    def _rate(self) -> float:
        silent = self._beats.silent()
        return float(sum(_fault_rate(heard) for node_id, heard in self._beats.heard.items() if node_id not in silent))

    def _miss_ratio(self) -> float:
        remote = self._total("remote_faults")
        return _ratio(remote, remote + self._total("local_faults"))

    def _mean_us(self) -> float:
        return _ratio(self._total("remote_fault_us_sum"), self._total("remote_faults"))

    def _total(self, name: str) -> int:
        return sum(heard.counters.get(name, 0) for heard in self._beats.heard.values())

    def _lent_bytes(self) -> int:
        silent = self._beats.silent()
        return sum(node.lend_bytes for node in self._writer.state.nodes.values() if can_lend(node, silent))

    def _reserved_bytes(self) -> int:
        return sum(node.reserved_bytes for node in self._writer.state.nodes.values())


def _fault_rate(heard: Heard) -> float:
    faults = heard.counters.get("remote_faults", 0)
    if window_s := heard.counters.get("window_seconds", 0):
        return faults / window_s
    if heard.before is None or heard.at_ms <= heard.before.at_ms:
        return 0.0
    grown = max(0, faults - heard.before.counters.get("remote_faults", 0))
    return grown * 1_000 / (heard.at_ms - heard.before.at_ms)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
