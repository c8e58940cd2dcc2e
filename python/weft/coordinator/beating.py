"""Beats over HTTP: the body becomes a report, the report is heard, and the answer is what the node should hold."""

from weft.api.bodies.beat import BeatBody, BeatReply, StoreTarget, TargetExtent
from weft.coordinator.beats import Beats
from weft.coordinator.healer import Healer
from weft.coordinator.pools import PoolNodes, outcome_of
from weft.coordinator.writer import Writer
from weft.core.beat import Report
from weft.core.cluster import existing_cluster
from weft.core.holding import target_extents, target_generation
from weft.core.node import existing_node
from weft.model.errors import WeftError
from weft.model.ids import Generation, NodeId, RegionId, parse_incarnation, parse_node_id
from weft.serve import Call
from weft.telemetry import Metrics

UNSAID = "the lender gave no reason"


class Beating:
    """Answers beats."""

    def __init__(self, writer: Writer, beats: Beats, pools: PoolNodes, healer: Healer, metrics: Metrics) -> None:
        self._writer = writer
        self._beats = beats
        self._pools = pools
        self._healer = healer
        self._count = metrics.counter("weft_beats_total", "Beats heard.")
        metrics.gauge("weft_beats_waiting", "Beats waiting for news.", lambda: beats.waiting_count)

    async def beat(self, call: Call) -> BeatReply:
        """POST /nodes/{node_id}/beat."""
        node_id, body = parse_node_id(call.path["node_id"]), call.body
        report = self._to_report(body)
        self._count.add()
        seen = body.observations
        try:
            await self._beats.hear(node_id, report, seen.counters, seen.lend_bytes, seen.peers, seen.draining)
        except WeftError as error:
            self._pools.chronicle.count("heartbeat", node_id, outcome_of(error))
            raise
        self._pools.chronicle.count("heartbeat", node_id, "ok")
        if seen.pools is not None:
            self._pools.take_pools(existing_node(self._writer.state, node_id), seen.pools)
        wait_ms = body.wait_ms
        if seen.store is None:
            self._healer.keeps_nothing(node_id)
        else:
            await self._healer.hear(node_id, report.incarnation, seen.store)
            wait_ms = 0 if self._healer.has_news(node_id, seen.store) else wait_ms
        await self._beats.wait_for_news(
            node_id, report.incarnation, Generation(body.generation), wait_ms, call.caller_left
        )
        return self._reply(node_id, self._healer.target(node_id) if seen.store is not None else None)

    def _to_report(self, body: BeatBody) -> Report:
        """What the body says of extents. A generation this log never gave out is another log's, and counts as none."""
        given_out = body.generation <= self._writer.state.marks.sequence
        extents = body.observations.extents
        return Report(
            incarnation=parse_incarnation(body.incarnation),
            generation=Generation(body.generation if given_out else 0),
            ready=frozenset((RegionId(one.region_id), one.index) for one in extents if one.state == "ready"),
            failed={
                (RegionId(one.region_id), one.index): one.error or UNSAID for one in extents if one.state == "failed"
            },
        )

    def _reply(self, node_id: NodeId, store: StoreTarget | None) -> BeatReply:
        state = self._writer.state
        cluster, ledger = existing_cluster(state), state.ledger
        assert ledger is not None, "a cluster is founded in a ledger"
        return BeatReply(
            generation=target_generation(state, node_id),
            cluster_id=ledger.cluster_id.hex(),
            cluster_name=cluster.name,
            position=state.marks.position,
            endpoints_version=state.marks.endpoints_generation,
            extents=[
                TargetExtent(
                    region_id=held.region.region_id,
                    name=held.region.name,
                    index=held.extent.index,
                    size_bytes=held.extent.size_bytes,
                    generation=held.region.floor,
                )
                for held in target_extents(state, node_id)
            ],
            store=store,
        )
