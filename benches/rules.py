"""Measures the core by itself: replay, the ring, and what a node takes in memory. Prints JSON."""

import gc
import json
import time
import tracemalloc

from weft.core.dispatch import apply, decide
from weft.core.moment import Moment
from weft.core.replay import close_batch, follow
from weft.core.ring import Member, Ring
from weft.core.state import Draft, State, state_digest
from weft.ledger.chain import StoredBatch, verify_run
from weft.model.batch import Batch, Entry, seal
from weft.model.canonical import NO_DIGEST
from weft.model.commands import (
    AdmitBeat,
    Command,
    FoundCluster,
    GiveUpNode,
    OpenLedger,
    OpenTerm,
    RegisterEndpoint,
    RegisterNode,
)
from weft.model.endpoint import TcpHalf
from weft.model.ids import Incarnation, NodeId, Position
from weft.model.node import Machine, NodeDescription, NodeStatus
from weft.model.policy import BATCH_COMMANDS_MAX, RING_POINTS_MAX, LedgerPolicy
from weft.model.pool import PoolSnapshot

NODES = 25_000
MEASURED_NODES = 4_000
KEYS = [f"key{index}" for index in range(20_000)]


def life_of(number: int) -> list[Command]:
    """A node joins, beats, says where it is, and is lost: what a log mostly holds."""
    node_id = NodeId(f"node-{number}")
    machine = Machine(hostname=f"host-{number}", ip_address="10.0.0.1", cpu_count=16, memory_mb=65_536)
    described = NodeDescription(node_id=node_id, status=NodeStatus.ONLINE, machine=machine, lend_bytes=1 << 30)
    return [
        RegisterNode(node=described),
        AdmitBeat(node_id=node_id, incarnation=Incarnation(1)),
        RegisterEndpoint(node_id=node_id, half=TcpHalf(address="10.0.0.1", port=50051)),
        GiveUpNode(node_id=node_id, incarnation=Incarnation(1)),
    ]


def live(commands: list[Command]) -> tuple[State, list[StoredBatch]]:
    """Live through commands, batch by batch, and keep what a journal would."""
    state, rows = State(), []
    for first in range(0, len(commands), BATCH_COMMANDS_MAX):
        draft, entries = Draft(state), []
        sequence = state.publishers.get("bench") or 0
        for command in commands[first : first + BATCH_COMMANDS_MAX]:
            for event in decide(draft, command, Moment(now_ms=1, chance=bytes(16))):
                apply(draft, event)
                sequence += 1
                entries.append(Entry(sequence=sequence, cause="bench", event=event))
        assert draft.ledger is not None
        sealed = seal(
            Batch(
                cluster_id=draft.ledger.cluster_id,
                term=draft.ledger.term,
                publisher="bench",
                position=Position(state.marks.position + 1),
                parent=state.marks.log_digest,
                at_ms=1,
                entries=tuple(entries),
            )
        )
        close_batch(draft, sealed)
        state.merge(draft)
        rows.append(StoredBatch(sealed.batch.position, sealed.batch.parent, sealed.digest, sealed.body))
    return state, rows


def replayed(rows: list[StoredBatch]) -> State:
    """From the journal's bytes to the state, everything verified on the way."""
    state = State()
    parent = NO_DIGEST
    for first in range(0, len(rows), 1_024):
        run = verify_run(rows[first : first + 1_024], Position(first), parent, "bench")
        for sealed in run:
            state.merge(follow(state, sealed))
        parent = run[-1].digest
    return state


def replay_figures() -> dict[str, float]:
    opening: list[Command] = [
        OpenLedger(policy=LedgerPolicy()),
        OpenTerm(writer="bench"),
        FoundCluster(name="bench", nodes=()),
    ]
    lived, rows = live(opening + [command for number in range(NODES) for command in life_of(number)])
    gc.collect()
    started = time.perf_counter()
    state = replayed(rows)
    took_s = time.perf_counter() - started
    assert state_digest(state) == state_digest(lived), "replay gives the state that living through it gave"
    return {"events_per_s": state.marks.sequence / took_s}


def memory_figures() -> dict[str, float]:
    """What a node takes: its rows in the state, and what was observed of it."""
    opening: list[Command] = [
        OpenLedger(policy=LedgerPolicy()),
        OpenTerm(writer="bench"),
        FoundCluster(name="bench", nodes=()),
    ]
    _, rows = live(opening + [command for number in range(MEASURED_NODES) for command in life_of(number)])
    gc.collect()
    tracemalloc.start()
    state = replayed(rows)
    pools = {
        node_id: {"pool-0": PoolSnapshot(pool_id="pool-0", ready=True, slots_free=3, slots_total=4, engine="llamacpp")}
        for node_id in state.nodes.keys()  # noqa: SIM118 — a table is not iterated by itself.
    }
    gc.collect()
    node_bytes = tracemalloc.get_traced_memory()[0] / len(pools)
    before = tracemalloc.get_traced_memory()[0]
    ring = Ring.of(Member(node_id, "zone") for node_id in state.nodes.keys())  # noqa: SIM118
    gc.collect()
    ring_bytes = (tracemalloc.get_traced_memory()[0] - before) / len(ring)
    tracemalloc.stop()
    return {"node_bytes": node_bytes + ring_bytes, "ring_bytes": ring_bytes}


def ring_figures() -> dict[str, float]:
    ring = Ring.of(Member(NodeId(f"n{number}"), f"zone-{number % 5}") for number in range(1_000))
    started = time.perf_counter()
    for key in KEYS:
        ring.place(key, 3)
    place_us = (time.perf_counter() - started) / len(KEYS) * 1e6
    started = time.perf_counter()
    large = Ring.of(Member(NodeId(f"n{number}"), f"zone-{number % 5}", RING_POINTS_MAX) for number in range(100))
    build_s = time.perf_counter() - started
    started = time.perf_counter()
    large.with_member(Member(NodeId("newcomer"), "zone-0", RING_POINTS_MAX))
    join_ms = (time.perf_counter() - started) * 1e3
    took_ns = []
    for key in KEYS:
        began = time.perf_counter_ns()
        large.place(key, 3)
        took_ns.append(time.perf_counter_ns() - began)
    took_ns.sort()
    return {
        "place_us": place_us,
        "build_s": build_s,
        "join_ms": join_ms,
        "place_p99_us": took_ns[len(took_ns) * 99 // 100] / 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(replay_figures() | memory_figures() | ring_figures()))
