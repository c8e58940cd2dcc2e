"""A thousand outages in virtual time: what was acknowledged is in the primary once, in order, and nothing else is.

Layers are down, hang, fail before they keep a blob and after, alone and together, for less than the threshold and for
longer. Writers repeat what failed under its id, as the client does. At the end a reader that has nothing but the
primary's blobs lives through them and has the same state as a coordinator that met no outage at all.
"""

import asyncio
import random
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ledger.lab import ALL, INTERVAL_MS, KEY, POLICY, Lab, live
from tests.worlds import node
from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.ledger.envelope import Kind, unwrap
from weft.ledger.layer import LayerHealth
from weft.model.availability import ReconcilePolicy, Role, Standing
from weft.model.batch import unseal
from weft.model.commands import Command, DrainNode, ResumeNode
from weft.model.errors import WeftError
from weft.model.ids import NodeId, Position

WRITERS = 10
PATIENT = POLICY.__class__(
    interval_ms=INTERVAL_MS, reconcile=ReconcilePolicy(retry_delay_ms=200, max_retries=1_000_000)
)
"""Layers that fail seven puts in ten would have blobs stuck; here nobody is there to ask for another try."""
HANGS_MS = 30_000
"""What a layer waits for at most: then it fails by itself, or answers after all."""
RESTED = (Standing.HEALTHY, Standing.RECOVERING)


Write = tuple[str, Command]
"""A command, and the id it is asked under."""


class Life(NamedTuple):
    digest: str
    order: list[Write]
    failovers: int
    reconciliations: int
    acknowledged: int


class FrozenWall:
    """A clock whose wall stands still, so that what is written does not depend on when."""

    def __init__(self, lab: Lab) -> None:
        self._clock = lab.clock

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()


class Reference:
    """The slow twin: counts failovers from what checks of the primary found, one by one."""

    def __init__(self, lab: Lab) -> None:
        self.failovers = self._bad = self._good = 0
        self._is_out = self._is_recovering = False
        board = lab.availability.board
        observe, reconcile = board.observe, board.reconcile

        def see(role: Role, health: LayerHealth) -> None:
            if role is Role.PRIMARY:
                self._see(health is not LayerHealth.UNAVAILABLE)
            observe(role, health)

        def see_reconciled() -> None:
            if self._is_recovering:
                self._is_out = self._is_recovering = False
            reconcile()

        board.observe, board.reconcile = see, see_reconciled  # type: ignore[method-assign]

    def _see(self, good: bool) -> None:
        self._bad, self._good = (0, self._good + 1) if good else (self._bad + 1, 0)
        if not self._is_out and self._bad >= 3:
            self.failovers, self._is_out = self.failovers + 1, True
        elif self._is_out:
            self._is_recovering = self._good >= 2


async def harm(lab: Lab, chance: random.Random, outages: int) -> None:
    """So many outages, one after the other, sometimes of several layers at once."""
    for _ in range(outages):
        await asyncio.sleep(chance.expovariate(1 / 2.0))
        hurt = chance.choices(
            [[Role.PRIMARY], [Role.PRIMARY, Role.SECONDARY], list(ALL), [Role.SECONDARY]], [6, 2, 1, 1]
        )
        for role in hurt[0]:
            layer = lab.layers[role]
            match chance.choice(["down", "down", "down", "hangs", "fails", "unknown", "both"]):
                case "down":
                    layer.is_down = True
                case "hangs":
                    layer.latency_ms = HANGS_MS
                case "fails":
                    layer.failure_chance = 0.7
                case "unknown":
                    layer.unknown_chance = 0.7
                case _:
                    layer.failure_chance = layer.unknown_chance = 0.4
        await asyncio.sleep(chance.choice([0.5, 1.5, 4.0, 6.0, 12.0]) * chance.uniform(0.8, 1.2))
        heal(lab)


def heal(lab: Lab) -> None:
    for layer in lab.layers.values():
        layer.is_down, layer.latency_ms, layer.failure_chance, layer.unknown_chance = False, 5, 0.0, 0.0


def writes_of(writer: int, count: int) -> list[Write]:
    """What one writer has to say: nodes of its own that join, are drained and resumed, each in order."""
    writes: list[Write] = []
    for number in range(count):
        name = f"w{writer}-{number // 5}"
        turn = number % 5
        if turn == 0:
            command: Command = node(name)
        else:
            command = (DrainNode if turn % 2 else ResumeNode)(node_id=NodeId(name))
        writes.append((f"writer-{writer}-{number}", command))
    return writes


async def write_all(lab: Lab, writes: list[Write], chance: random.Random, pause_s: float = 0.0) -> int:
    """Write one after the other, each again under its id until it is acknowledged."""
    acknowledged = 0
    for request, command in writes:
        while True:
            try:
                await lab.write(command, request)
                acknowledged += 1
                break
            except WeftError as error:
                if not error.temporary:
                    raise
                await asyncio.sleep(0.5)
        if pause_s:
            await asyncio.sleep(chance.expovariate(1 / pause_s))
    return acknowledged


def life(writers: list[list[Write]], outages: int, *, lived_s: float = 0.0) -> Life:
    """Write so much, through so many outages; what came of it."""
    lives: list[Life] = []

    async def story(lab: Lab) -> None:
        chance = random.Random("outages")
        lab.clock = FrozenWall(lab)  # type: ignore[assignment]
        heal(lab)
        await lab.serve(PATIENT)
        reference = Reference(lab)
        await lab.found()
        harming = asyncio.ensure_future(harm(lab, chance, outages))
        writing = [write_all(lab, writes, chance, lived_s / len(writes)) for writes in writers]
        acknowledged = sum(await asyncio.gather(*writing))
        await harming
        heal(lab)
        await lab.availability.board.until(lambda now: now.standing is Standing.HEALTHY and now.unconfirmed == 0)
        now = lab.availability.board.now
        assert now.failover_count == reference.failovers
        assert lab.positions(Role.PRIMARY) == list(range(1, await lab.journal.tail() + 1)), "each once, in order"
        assert (await lab.availability.compare()).details == ()
        rebuilt = rebuild(lab)
        assert state_digest(rebuilt).hex() == lab.digest()
        # Where the log stands depends on who shared a batch with whom; what it says does not.
        rebuilt.marks = State().marks
        order = [request.split("~")[0] for request in causes(lab) if request.startswith("writer")]
        assert len(order) == len(set(order)) == acknowledged, "each applied once"
        known = dict(write for writes in writers for write in writes)
        lives.append(
            Life(
                state_digest(rebuilt).hex(),
                [(request, known[request]) for request in order],
                now.failover_count,
                now.reconciliation_count,
                acknowledged,
            )
        )

    live(story)
    return lives[0]


def causes(lab: Lab) -> list[str]:
    """Why each event in the primary's blobs happened, in order."""
    found = [unwrap(blob, [KEY.public]) for _, blob in lab.primary._blobs]
    batches = [unseal(envelope.payload, Position(envelope.sequence)).batch for envelope in found]
    return [entry.cause for batch in batches for entry in batch.entries]


def rebuild(lab: Lab) -> State:
    """The state of somebody who has the primary's blobs and nothing else."""
    state = State()
    for _, blob in lab.primary._blobs:
        envelope = unwrap(blob, [KEY.public])
        if envelope.kind is Kind.BATCH:
            state.merge(follow(state, unseal(envelope.payload, Position(envelope.sequence))))
    return state


def test_a_thousand_outages_over_ten_thousand_writes_end_as_a_life_without_any() -> None:
    through = life([writes_of(writer, 10_000 // WRITERS) for writer in range(WRITERS)], 1_000, lived_s=6_500.0)
    # The same writes in the order in which they came to be, one by one, and nothing ever fails.
    without = life([through.order], 0)
    assert (through.acknowledged, without.acknowledged) == (10_000, 10_000)
    assert through.digest == without.digest
    assert through.failovers == through.reconciliations > 100
    assert (without.failovers, without.reconciliations) == (0, 0)


def test_outages_that_never_reach_the_threshold_reconcile_nothing() -> None:
    async def story(lab: Lab) -> None:
        chance = random.Random(7)
        await lab.serve()
        await lab.found()
        writing = asyncio.ensure_future(write_all(lab, writes_of(0, 200), chance, 0.5))
        for _ in range(50):
            lab.primary.is_down = True
            await asyncio.sleep(1.8 * INTERVAL_MS / 1_000)
            lab.primary.is_down = False
            await asyncio.sleep(1.2 * INTERVAL_MS / 1_000)
        await writing
        now = lab.availability.board.now
        assert (now.failover_count, now.reconciliation_count, lab.kept(Role.SECONDARY)) == (0, 0, [])

    live(story)


@pytest.mark.parametrize("seed", range(3))
def test_kills_in_the_middle_of_outages_lose_nothing_that_was_acknowledged(seed: int, tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        chance = random.Random(f"kills {seed}")
        heal(lab)
        await lab.serve(POLICY)
        await lab.found()
        harming = asyncio.ensure_future(harm(lab, chance, 12))
        acknowledged: list[int] = []
        number = 0
        while not harming.done():
            writing = [asyncio.ensure_future(lab.register(number + one)) for one in range(5)]
            await asyncio.sleep(0.2)
            await asyncio.wait(writing, timeout=chance.expovariate(1 / 2.0))
            if chance.random() < 0.1:
                await lab.kill()
                for task in writing:
                    task.cancel()
                await asyncio.gather(*writing, return_exceptions=True)
            acknowledged += [
                number + one
                for one, task in enumerate(writing)
                if task.done() and not task.cancelled() and task.exception() is None
            ]
            for task in writing:
                task.cancel()
            number += 5
            if lab.coordinator is None:
                await lab.serve(POLICY)
        heal(lab)
        await lab.availability.board.until(lambda now: now.standing in RESTED and now.unshipped == 0)
        await lab.availability.reconciler.reconcile()
        assert (lab.standing, lab.availability.board.now.unconfirmed) == (Standing.HEALTHY, 0)
        positions = lab.positions(Role.PRIMARY)
        assert sorted(set(positions)) == list(range(1, await lab.journal.tail() + 1))
        assert len(positions) == len(set(positions)), "none twice"
        state = rebuild_sorted(lab)
        assert state_digest(state).hex() == lab.digest()
        missing = [one for one in acknowledged if state.nodes.get(NodeId(f"n{one}")) is None]
        assert missing == []
        assert len(acknowledged) > 20

    live(story, directory=tmp_path, seed=seed)


def rebuild_sorted(lab: Lab) -> State:
    """As `rebuild`, by the places in the log: what a kill left may have come in another order."""
    envelopes = [unwrap(blob, [KEY.public]) for _, blob in lab.primary._blobs]
    state = State()
    for envelope in sorted(envelopes, key=lambda one: one.sequence):
        state.merge(follow(state, unseal(envelope.payload, Position(envelope.sequence))))
    return state
