"""The scheduler: the pinned scores, the filters one by one, and who wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import World, replay
from weft.core.scheduler import BOOT_CONFIG, Verdict, choose, judge, scheduler_config, score
from weft.core.state import state_digest
from weft.model.commands import ConfigureScheduler, DestroyCluster
from weft.model.errors import NoSuitableNode
from weft.model.ids import NodeId
from weft.model.scheduling import Weights, Workload
from weft.model.stats import UNKNOWN_STATS, NodeStats

BOOT = BOOT_CONFIG.weights
README = Weights(w_cpu=1.0, w_ram=1.5, w_gpu=0.5, w_latency=1.0, w_io=0.8)


def stats(cpu: float, ram: float, gpu: float, latency: float, io: float) -> NodeStats:
    return NodeStats(cpu_free=cpu, ram_free_mb=ram, gpu_free=gpu, latency_ms=latency, io_pressure=io)


SEED = stats(0.75, 8192.0, 0.5, 5.0, 0.1)


def verdicts(seen: dict[str, NodeStats], workload: Workload | None = None, weights: Weights = BOOT) -> list[Verdict]:
    named = {NodeId(node_id): one for node_id, one in seen.items()}
    return judge(list(named), {}, named, workload or Workload(), weights)


@pytest.mark.parametrize(
    ("seen", "weights", "expected"),
    [
        (stats(0.8, 16000, 0, 5, 0.1), BOOT, 26.65),
        (stats(0.5, 8000, 1, 10, 0.05), BOOT, 15.425),
        (SEED, BOOT, 19.792),
        (UNKNOWN_STATS, BOOT, -1.4949995),
        (SEED, README, 12289.12),
    ],
)
def test_the_pinned_scores(seen: NodeStats, weights: Weights, expected: float) -> None:
    assert score(seen, weights) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (Workload(cpu_req=0.8), "cpu_free 0.75 is less than 0.8"),
        (Workload(ram_req_mb=8193), "ram_free_mb 8192 is less than 8193"),
        (Workload(gpu_req=0.6), "gpu_free 0.5 is less than 0.6"),
        (Workload(max_latency_ms=4.9), "latency_ms 5 is more than 4.9"),
        (Workload(io_tolerance=0.05), "io_pressure 0.1 is more than 0.05"),
    ],
)
def test_each_filter_refuses_alone_and_says_why(workload: Workload, why: str) -> None:
    assert verdicts({"a": SEED}, workload) == [Verdict(node_id=NodeId("a"), refused=why)]


@pytest.mark.parametrize(
    "workload",
    [
        Workload(),
        Workload(cpu_req=0.75, ram_req_mb=8192, gpu_req=0.5, max_latency_ms=5, io_tolerance=0.1),
        Workload(cpu_req=0.0, gpu_req=0.0),
    ],
)
def test_what_is_just_enough_is_enough(workload: Workload) -> None:
    assert choose(verdicts({"a": SEED}, workload)) == "a"


def test_a_node_that_never_said_stands_behind_everybody_who_did() -> None:
    seen = {NodeId("said"): stats(0.1, 1, 0, 100, 0.9)}
    ranked = judge([NodeId("silent"), NodeId("said")], {}, seen, Workload(), BOOT)
    assert [verdict.node_id for verdict in ranked] == ["said", "silent"]


def test_a_node_that_is_given_no_work_is_refused_with_the_reason() -> None:
    [verdict] = judge([NodeId("a")], {NodeId("a"): "the node is offline"}, {NodeId("a"): SEED}, Workload(), BOOT)
    assert verdict.refused == "the node is offline"


def test_nobody_suitable_is_an_answer_of_its_own() -> None:
    for nodes in ({}, {"a": SEED}):
        with pytest.raises(NoSuitableNode, match="no suitable node"):
            choose(verdicts(nodes, Workload(cpu_req=1.0)))


def test_a_lower_latency_never_scores_worse_down_to_the_floor() -> None:
    scores = [score(stats(0.5, 100, 0, latency, 0), BOOT) for latency in (0.0, 0.05, 0.1, 0.5, 1.0, 10.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == scores[1] == scores[2] > scores[3]


def test_equal_scores_go_to_the_smaller_id_and_near_ones_do_not() -> None:
    assert choose(verdicts({"b": SEED, "a": SEED})) == "a"
    nearly = stats(0.75 + 5e-10, 8192.0, 0.5, 5.0, 0.1)
    assert choose(verdicts({"b": nearly, "a": SEED})) == "b"


def test_normalised_weights_do_not_let_megabytes_outweigh_everything() -> None:
    seen = {"roomy": stats(0.1, 9000, 0, 10, 0), "idle": stats(1.0, 8000, 0, 1, 0)}
    weights = Weights(w_cpu=1, w_ram=1, w_gpu=1, w_latency=1, w_io=1)
    assert choose(verdicts(seen, weights=weights)) == "roomy"
    normalised = Weights(w_cpu=1, w_ram=1, w_gpu=1, w_latency=1, w_io=1, normalised=True)
    assert choose(verdicts(seen, weights=normalised)) == "idle"


def test_normalised_each_figure_counts_as_its_share_of_the_best_there_is() -> None:
    seen = {"a": stats(0.5, 4000, 1, 20, 0.25), "b": stats(1.0, 8000, 4, 5, 0.5)}
    normalised = Weights(w_cpu=1, w_ram=10, w_gpu=100, w_latency=1000, w_io=10_000, normalised=True)
    scores = {verdict.node_id: verdict.score for verdict in verdicts(seen, weights=normalised)}
    assert scores == {"a": 0.5 + 5 + 25 + 250 - 2500, "b": 1 + 10 + 100 + 1000 - 5000}


figures = st.builds(stats, st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 8), st.floats(0, 1e4), st.floats(0, 1))


@given(seen=st.dictionaries(st.sampled_from("abcdefgh"), figures, min_size=1), normalised=st.booleans())
def test_the_rank_is_the_same_in_whatever_order_nodes_are_looked_at(
    seen: dict[str, NodeStats], normalised: bool
) -> None:
    weights = Weights(w_cpu=1, w_ram=0.001, w_gpu=2, w_latency=50, w_io=1.5, normalised=normalised)
    backwards = dict(reversed(list(seen.items())))
    assert verdicts(seen, weights=weights) == verdicts(backwards, weights=weights)


def test_weights_are_set_by_an_event_and_each_setting_is_a_version() -> None:
    world = World.founded()
    assert scheduler_config(world.state) == BOOT_CONFIG
    world.do(ConfigureScheduler(weights=README))
    assert world.do(ConfigureScheduler(weights=README)) == ()
    world.do(ConfigureScheduler(weights=BOOT))
    config = scheduler_config(world.state)
    assert (config.version, config.weights) == (2, BOOT)
    again = replay(world.log)
    assert scheduler_config(again) == config
    assert state_digest(again) == state_digest(world.state)


def test_weights_go_with_the_cluster() -> None:
    world = World.founded()
    world.do(ConfigureScheduler(weights=README))
    world.do(DestroyCluster())
    assert scheduler_config(world.state) == BOOT_CONFIG
