"""The simulator: `python -m weft.testing.sim --seeds 200`. Clusters live, limp, are judged, and must come to rest.

A run is a seed. Steps draw an action and let some time pass; after every one of them each `invariant_*` looks. Then
faults stop, and within bounded time everything must be at rest and healthy: every node that runs is online and holds
what it should and nothing else, every node that does not is known to be gone, no plan is open, and a coordinator that
starts anew and reads its log finds nothing left to do.

A run that fails prints its seed and how to run it again. It fails the same way every time.
"""

import argparse
import contextlib
import functools
import gc
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from weft.core.holding import target_extents
from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.ledger.envelope import Kind, unwrap
from weft.model.availability import Standing
from weft.model.batch import unseal
from weft.model.errors import JournalDamaged
from weft.model.events import (
    ClusterDestroyed,
    NodeDrained,
    NodeIncarnated,
    NodeLost,
    RegionPlanned,
    ReplicaAdded,
    ReplicaRemoved,
    TermOpened,
)
from weft.model.ids import NodeId, Position
from weft.model.node import NodeStatus
from weft.model.region import RegionState
from weft.testing.actions import Actions
from weft.testing.cluster import Cluster
from weft.testing.host import REMARKS
from weft.testing.invariants import BrokenError, Judge
from weft.testing.loop import StuckError
from weft.testing.machine import Machine

AGENTS = 50
STEPS = 400
_STEP_S_MEAN = 0.35
_COLLECT_STEPS = 50
_REST_S_MAX = 300.0
"""When everything must be at rest: a reservation may take its minute and a half, a lost node its minute."""
_QUIET_S = 15.0
"""How long nothing may happen then: five beats of everybody."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was."""

    seed: int
    lived_s: float
    rested_s: float
    lines: int
    digest: str
    batches: int
    counts: dict[str, int]


class SimulationFailedError(Exception):
    """A run that did what may never be done."""

    def __init__(self, seed: int, step: int, what: str, last: list[str]) -> None:
        super().__init__(f"seed {seed}, step {step}: {what}")
        self.seed, self.step, self.what, self.last = seed, step, what, last


def kind_of(seed: int) -> tuple[bool, bool]:
    """Whether a life has availability layers, and whether two coordinators share its journal."""
    return seed % 4 in (2, 0), seed % 4 in (3, 0)


class Simulation:
    """One life of a cluster."""

    def __init__(self, seed: int, *, agents: int = AGENTS, steps: int = STEPS, out: TextIO | None = None) -> None:
        chance = random.Random(f"simulation {seed}")
        layered, paired = kind_of(seed)
        self.seed = seed
        self.steps = steps
        self.cluster = Cluster(
            seed,
            agents=agents,
            lend_stripes=64,
            on_memory=chance.random() < 0.25 and not (layered or paired),
            cloud=chance.random() < 0.7,
            layered=layered,
            on_chain=chance.random() < 0.5,
            paired=paired,
            out=out,
        )
        self.actions = Actions(self.cluster, chance)
        self.judge = Judge(self.cluster)
        self.judge.watchers = self.actions.watchers
        self._chance = chance
        self._step = 0

    def run(self) -> Outcome:
        """Live it. Raises `SimulationFailedError`."""
        # What nobody looked at is found when it is collected, so that has to happen at the same step every time.
        gc.collect()
        gc.disable()
        try:
            self._live()
            lived_s = self.cluster.loop.time()
            self._come_to_rest()
            rested_s = self.cluster.loop.time() - lived_s
            self._stay_at_rest()
            self._replay_all()
            self._rebuild_from_the_primary()
        except (BrokenError, StuckError, JournalDamaged) as error:
            raise SimulationFailedError(self.seed, self._step, str(error), self.cluster.trace.last()) from error
        finally:
            self.cluster.close()
            gc.enable()
        trace = self.cluster.trace
        return Outcome(
            seed=self.seed,
            lived_s=lived_s,
            rested_s=rested_s,
            lines=trace.count,
            digest=trace.digest,
            batches=len(self.judge.batches),
            counts=self._counts(),
        )

    def _live(self) -> None:
        self.cluster.start_hosts()
        for machine in self.cluster.machines.values():
            if machine.rack is not None and self._chance.random() < 0.5:
                machine.rack.start("p0", 2, ("small",))
            if self._chance.random() < 0.9:
                machine.start()
        for watcher in self.actions.watchers:
            watcher.start()
        for step in range(1, self.steps + 1):
            self._step = step
            self.actions.act()
            self.cluster.loop.run_for(min(10.0, self._chance.expovariate(1 / _STEP_S_MEAN)))
            if self._step % _COLLECT_STEPS == 0:
                gc.collect()
            self.judge.look()

    def _come_to_rest(self) -> None:
        self.actions.relent()
        deadline_s = self.cluster.loop.time() + _REST_S_MAX
        while (unrest := self._unrest()) is not None:
            if self.cluster.loop.time() >= deadline_s:
                raise BrokenError(f"no rest {_REST_S_MAX:.0f} s after the last fault: {unrest}")
            self.actions.tidy()
            self.cluster.loop.run_for(1.0)
            self.judge.look()

    def _stay_at_rest(self) -> None:
        """A coordinator that knows only its log finds nothing to do, and nobody carries anything out twice."""
        cluster, known = self.cluster, len(self.judge.batches)
        steps = {name: machine.memory.steps for name, machine in cluster.machines.items() if machine.memory is not None}
        for host in cluster.hosts:
            host.kill()
        for host in cluster.hosts:
            host.start()
        cluster.loop.run_for(_QUIET_S)
        self.judge.look()
        events = [entry.event for batch in self.judge.batches[known:] for entry in batch.entries]
        if extra := [event for event in events if not isinstance(event, TermOpened)]:
            raise BrokenError(f"a coordinator that started anew at rest found something to do: {extra[0]!r}")
        for name, machine in cluster.machines.items():
            if machine.memory is not None and machine.memory.steps != steps.get(name):
                raise BrokenError(f"{name} carried its target out twice")
        if (unrest := self._unrest()) is not None:
            raise BrokenError(f"rest did not last: {unrest}")

    def _replay_all(self) -> None:
        """From nothing, once more, with nobody having looked in between."""
        state = State()
        for row in self.cluster.hosts[0].rows():
            state.merge(follow(state, unseal(row.body, Position(row.position))))
        if state_digest(state) != state_digest(self.judge.state):
            raise BrokenError("replaying the whole log gives another state than following it did")

    def _rebuild_from_the_primary(self) -> None:
        """By somebody who has the primary's blobs and nothing else: every batch, once in the state, in one order."""
        places = self.cluster.places
        if places is None:
            return
        batches: dict[Position, bytes] = {}
        for blob in places.primary.blobs().values():
            envelope = unwrap(blob, [places.key.public])
            if (
                envelope.kind is Kind.BATCH
                and batches.setdefault(Position(envelope.sequence), envelope.payload) != envelope.payload
            ):
                raise BrokenError(f"the primary has two batches for position {envelope.sequence}")
        state = State()
        for position in sorted(batches):
            if position != state.marks.position + 1:
                raise BrokenError(f"the primary has nothing for position {state.marks.position + 1}")
            state.merge(follow(state, unseal(batches[position], position)))
        if state_digest(state) != state_digest(self.judge.state):
            raise BrokenError(
                f"the primary leads to position {state.marks.position} and another state than the journal, which is "
                f"at {self.judge.state.marks.position}"
            )

    def _unrest(self) -> str | None:
        """What is not at rest, or None."""
        cluster, state = self.cluster, self.cluster.host.state
        if state is None or cluster.host.coordinator is None:
            return "the coordinator does not serve"
        if self.actions.under_way:
            return "programs still wait for answers"
        if (what := self._availability_unrest(state)) is not None:
            return what
        if state.cluster is None:
            return "nobody has founded the cluster again"
        for watcher in self.actions.watchers:
            if watcher.position != state.marks.position:
                return f"{watcher.name} has seen {watcher.position} of {state.marks.position}"
        for region in state.regions.values():
            if region.state in (RegionState.PLANNED, RegionState.DELETING):
                return f"region {region.name} is {region.state}"
        online = cluster.online()
        for name, machine in cluster.machines.items():
            node = state.nodes.get(NodeId(name))
            if machine.leaving and machine.process is not None:
                return f"{name} has not left"
            if not machine.is_running:
                if node is not None and node.incarnation is not None and node.status is not NodeStatus.OFFLINE:
                    return f"{name} does not run and is {node.status}"
                continue
            if node is None or name not in online:
                return f"{name} runs and is {'unknown' if node is None else node.status}"
            if node.drained:
                return f"{name} is drained"
            if (what := self._engine_unrest(machine)) is not None:
                return what
            wanted = {
                (held.region.region_id, held.extent.index): held.extent.size_bytes
                for held in target_extents(state, NodeId(name))
            }
            held = machine.memory.held if machine.memory is not None else {}
            if wanted != held:
                return f"{name} holds {len(held)} extents and should hold {len(wanted)}"
            if machine.shelf.bad:
                return f"{name} keeps {len(machine.shelf.bad)} copies that went bad"
            if not cluster.host.coordinator._beats.holds(NodeId(name), node.generation):
                return f"{name} has not said that it holds its target"
        return self._object_unrest(state)

    def _availability_unrest(self, state: State) -> str | None:
        """Everything is in the primary, and every other coordinator has followed to the end."""
        for host in self.cluster.hosts:
            if host.state is None or host.state.marks.position != state.marks.position:
                return f"{host.place} has not followed to {state.marks.position}"
        coordinator = self.cluster.host.coordinator
        if coordinator is None or coordinator.availability is None:
            return None
        now = coordinator.availability.board.now
        if now.standing is not Standing.HEALTHY or now.unshipped or now.pending:
            return f"availability is {now.standing}, {now.unshipped} batches unshipped, {now.pending} pending"
        return None

    def _engine_unrest(self, machine: Machine) -> str | None:
        """The coordinator believes of a machine's engines what is so, speaks to them, and has nothing promised."""
        coordinator, rack, node_id = self.cluster.host.coordinator, machine.rack, NodeId(machine.name)
        if coordinator is None or rack is None:
            return None
        described = coordinator._observations.pools_of(node_id)
        believed = {pool.pool_id: (pool.slots_free, pool.slots_total) for pool in described.values() if pool.is_open}
        if believed != rack.ready():
            return f"{machine.name} has engines {rack.ready()} and is believed to have {believed}"
        bound = {binding.pool_id: binding.url for binding in coordinator.bindings.of(node_id)}
        if bound != {pool_id: rack.engines[pool_id].url for pool_id in believed}:
            return f"the engines of {machine.name} are bound as {bound}"
        if any(key[0] == node_id for key in coordinator._jobs.promised):
            return f"slots of {machine.name} are still promised"
        return None

    def _object_unrest(self, state: State) -> str | None:
        """The books say of running machines what their shelves say, and every object has the copies it can have."""
        coordinator = self.cluster.host.coordinator
        if coordinator is None or not coordinator.healer.plan.is_empty:
            return "objects are being healed"
        running = [machine for machine in self.cluster.machines.values() if machine.is_running]
        for stored in state.objects.values():
            there = [machine.name for machine in running if machine.shelf.is_good(stored.object_hash)]
            booked = [node_id for node_id in stored.replicas if self.cluster.machines[node_id].is_running]
            if sorted(there) != sorted(booked):
                return f"object {stored.object_hash} is on {there} and the books say {booked}"
            wanted = min(stored.replicas_wanted, len(running))
            # While a holder is away nobody lets go of a copy, since the one that is away may not come back.
            all_here = len(booked) == len(stored.replicas)
            if there and (len(there) < wanted or (all_here and len(there) > wanted)):
                return f"object {stored.object_hash} has {len(there)} copies and wants {wanted}"
        return None

    def _counts(self) -> dict[str, int]:
        """What happened, in numbers: a run in which nothing did proves nothing."""
        events = [entry.event for batch in self.judge.batches for entry in batch.entries]
        kinds = (TermOpened, NodeIncarnated, NodeLost, RegionPlanned)
        counts = {kind.__name__: sum(isinstance(event, kind) for event in events) for kind in kinds}
        counts["Objects"] = len(self.judge.state.objects)
        counts["ReplicaAdded"] = sum(isinstance(event, ReplicaAdded) for event in events)
        counts["ReplicaRemoved"] = sum(isinstance(event, ReplicaRemoved) for event in events)
        counts["Granted"] = len(self.cluster.observer.floors_promised)
        counts["NodeDrained"] = sum(isinstance(event, NodeDrained) for event in events)
        counts["ClusterDestroyed"] = sum(isinstance(event, ClusterDestroyed) for event in events)
        books = self.cluster.observer.books.values()
        counts["Placed"] = sum(dispatches.placed_count for dispatches in books)
        counts["Reset"] = sum(dispatches.reset_count for dispatches in books)
        counts["Full"] = sum(dispatches.full_count for dispatches in books)
        for remark in REMARKS:
            counts[remark.title().replace(" ", "")] = sum(host.remarks[remark] for host in self.cluster.hosts)
        counts["Watched"] = sum(watcher.count for watcher in self.actions.watchers)
        counts["Beats"] = self.cluster.observer.beats_heard
        return counts


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; the exit status says whether all of them held."""
    flags = _parser().parse_args(arguments)
    first = flags.seed if flags.seed is not None else 1
    began_s = time.monotonic()
    failed = []
    for seed, (held, said) in enumerate(_runs(range(first, first + flags.seeds), flags), start=first):
        print(said, flush=True)
        if not held:
            failed.append(seed)
    took_s = time.monotonic() - began_s
    print(f"{flags.seeds - len(failed)} of {flags.seeds} seeds held, in {took_s:.0f} s")
    if failed:
        print("failed: " + " ".join(str(seed) for seed in failed))
    return 1 if failed else 0


def _runs(seeds: range, flags: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Each seed's outcome, in order. A seed knows nothing of any other, so that several processes may share them."""
    run = functools.partial(_run, flags=flags)
    if flags.jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(flags.jobs) as workers:
        yield from workers.imap(run, seeds)


def _run(seed: int, flags: argparse.Namespace) -> tuple[bool, str]:
    began_s = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(Path(flags.trace).open("w")) if flags.trace else None
            outcome = Simulation(seed, agents=flags.agents, steps=flags.steps, out=out).run()
    except SimulationFailedError as error:
        said = [f"seed {seed} FAILED at step {error.step}: {error.what}"]
        if flags.last:
            said += [f"    {line}" for line in error.last[-flags.last :]]
        said.append(
            f"    again: python -m weft.testing.sim --seed {seed} --agents {flags.agents} --steps {flags.steps}"
        )
        return False, "\n".join(said)
    counted = " ".join(f"{name}={count}" for name, count in outcome.counts.items())
    return True, (
        f"seed {seed} held: {outcome.lived_s:.0f} s lived, at rest after {outcome.rested_s:.0f}, "
        f"{outcome.lines} lines, {outcome.digest[:16]}, {counted}, {time.monotonic() - began_s:.1f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weft.testing.sim", description="Clusters in one thread, each from one seed.")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--seed", type=int, help="the first of them; 1 unless given")
    parser.add_argument("--agents", type=int, default=AGENTS, help="machines in each cluster")
    parser.add_argument("--steps", type=int, default=STEPS, help="actions in each run")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--last", type=int, default=12, help="lines of the trace to print for a failure")
    parser.add_argument("--trace", metavar="FILE", help="where to write every line of the trace")
    return parser


if __name__ == "__main__":
    sys.exit(main())
