"""Clusters that live and limp in virtual time. The long form is `make sim SEEDS=200`; this is the short one."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weft.testing.sim import Outcome, Simulation, SimulationFailedError, main

AGENTS = 8
STEPS = 240


@functools.cache
def lived(seed: int) -> Outcome:
    return Simulation(seed, agents=AGENTS, steps=STEPS).run()


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_cluster_limps_and_comes_to_rest_healthy(seed: int) -> None:
    outcome = lived(seed)
    assert outcome.counts["Beats"] > 50
    assert outcome.counts["RegionPlanned"] > 0
    assert outcome.counts["NodeIncarnated"] > 3


def test_the_seeds_of_the_short_form_meet_what_they_are_meant_to_meet() -> None:
    outcomes = [lived(seed) for seed in range(1, 13)]
    for what in (
        "TermOpened",
        "NodeIncarnated",
        "NodeLost",
        "RegionPlanned",
        "Granted",
        "ReplicaAdded",
        "ReplicaRemoved",
        "NodeDrained",
        "Placed",
        "Full",
        "Watched",
        "AvailabilityChanged",
        "Reconciled",
        "TermBegun",
    ):
        assert sum(outcome.counts[what] for outcome in outcomes) > 3, what


@pytest.mark.parametrize("seed", [5, 8])
def test_two_runs_of_one_seed_give_the_same_trace_byte_for_byte(seed: int, tmp_path: Path) -> None:
    traces = []
    for hash_seed in ("1", "2"):
        trace = tmp_path / hash_seed
        # Another hash seed gives every set of texts another order; what depends on one shows here.
        subprocess.run(
            [
                sys.executable, "-m", "weft.testing.sim", "--seed", str(seed), "--agents", str(AGENTS),
                "--steps", str(STEPS), "--trace", str(trace),
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=60,
        )  # fmt: skip
        traces.append(trace.read_bytes())
    assert traces[0].count(b"\n") > 500
    assert traces[0] == traces[1]


def test_another_seed_is_another_life() -> None:
    first, second = (Simulation(seed, agents=3, steps=20).run() for seed in (1, 2))
    assert first.digest != second.digest


def test_a_seed_that_fails_says_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(simulation: Simulation) -> None:
        raise SimulationFailedError(simulation.seed, 3, "the sky fell", ["0.1 a line", "0.2 another"])

    monkeypatch.setattr(Simulation, "run", fail)
    assert main(["--seed", "17", "--agents", "4", "--steps", "9"]) == 1
    printed = capsys.readouterr().out
    assert "seed 17 FAILED at step 3: the sky fell" in printed
    assert "python -m weft.testing.sim --seed 17 --agents 4 --steps 9" in printed
    assert "failed: 17" in printed


def test_processes_share_the_seeds_and_say_what_one_says(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for jobs in ("1", "2"):
        assert main(["--seeds", "3", "--agents", "3", "--steps", "20", "--jobs", jobs]) == 0
        lines = capsys.readouterr().out.splitlines()
        said.append([line.rpartition(",")[0] for line in lines])
        assert lines[-1].startswith("3 of 3 seeds held")
    assert len(said[0]) == 4
    assert said[0] == said[1]
