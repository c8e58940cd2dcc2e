"""Where keys and workloads go, over HTTP: the ring and the scheduler."""

from weft.api.alike import alike
from weft.api.bodies.placing import (
    Scheduled,
    SchedulerConfigInfo,
    SchedulerConfigured,
    VerdictInfo,
)
from weft.coordinator.causes import cause_of
from weft.coordinator.observations import Observations
from weft.coordinator.roster import Roster
from weft.coordinator.writer import Writer
from weft.core.scheduler import Verdict, choose, judge, scheduler_config
from weft.model.commands import ConfigureScheduler
from weft.model.errors import NoSuitableNode
from weft.model.scheduling import SchedulerConfig, Weights, Workload
from weft.serve import Call


class Placing:
    """Answers where something belongs, and which node suits best."""

    def __init__(self, writer: Writer, roster: Roster, observations: Observations) -> None:
        self._writer = writer
        self._roster = roster
        self._observations = observations

    async def place(self, call: Call) -> list[str]:
        """GET /placement/{hash}."""
        return list(self._roster.ring.place(call.path["hash"], call.query.rf, self._roster.aside()))

    async def schedule(self, call: Call) -> Scheduled:
        """POST /schedule."""
        state = self._writer.state
        verdicts = judge(
            list(state.nodes.keys()),
            self._roster.aside(),
            self._observations.stats,
            alike(call.body, Workload),
            scheduler_config(state).weights,
        )
        explanation = [_verdict_info(verdict) for verdict in verdicts] if call.query.explain else None
        try:
            return Scheduled(node_id=choose(verdicts), explanation=explanation)
        except NoSuitableNode as error:
            if explanation is not None:
                error.facts["explanation"] = explanation
            raise

    async def show_config(self, call: Call) -> SchedulerConfigInfo:  # noqa: ARG002
        """GET /scheduler/config."""
        return _config_info(scheduler_config(self._writer.state))

    async def configure(self, call: Call) -> SchedulerConfigured:
        """POST /scheduler/config."""
        await self._writer.submit(ConfigureScheduler(weights=alike(call.body, Weights)), cause_of(call))
        return SchedulerConfigured(config=_config_info(scheduler_config(self._writer.state)))


def _config_info(config: SchedulerConfig) -> SchedulerConfigInfo:
    return alike(config.weights, SchedulerConfigInfo, version=config.version)


def _verdict_info(verdict: Verdict) -> VerdictInfo:
    return VerdictInfo(node_id=verdict.node_id, score=verdict.score, refused=verdict.refused)
