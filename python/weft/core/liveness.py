"""Liveness: where a node stands in its life, as a table of state and signal, and when silence is somebody else's fault.

`TABLE` is the whole of it. The log stores what is a fact (joining, online, draining, offline); *suspect* is what a node
looks like while its silence is still young, and *gone* is a row that is not there. Whoever reads a node asks
`standing`, which carries the stored status through the table by how long the node has been silent, so that a node that
is past its time is offline to every reader at once, and the sweep that later writes it down tells nobody anything new.

Silence is measured on a clock that only grows, between two readings by the same process: no wall clock, of this machine
or of the node's, has a say.

What if most nodes fall silent at once? Then it is more likely that this process was stopped, or cut off, than that they
all died. `judge` holds such a loss back for a while: they are suspect, get nothing new, and are not given up. What if
they did die? When the hold is over they are given up like any others.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from weft.model.ids import NodeId
from weft.model.node import Node, NodeStatus
from weft.model.policy import (
    BRAKE_NODES_MIN,
    BRAKE_PERCENT,
    NODE_LOST_MS,
    NODE_PURGE_MS,
    NODE_SILENT_MS,
)


class Standing(StrEnum):
    """Where a node stands."""

    JOINING = "joining"
    ONLINE = "online"
    SUSPECT = "suspect"
    DRAINING = "draining"
    OFFLINE = "offline"
    GONE = "gone"

    @property
    def status(self) -> NodeStatus:
        """How it is told to those who know no suspicion: a suspect counts as online until its time is up."""
        return NodeStatus.ONLINE if self is Standing.SUSPECT else NodeStatus(self.value)


class Signal(StrEnum):
    """What can happen to it. `SILENCE` and `TIMEOUT` are made by time alone."""

    REGISTER = "register"
    BEAT = "beat"
    SILENCE = "silence"
    TIMEOUT = "timeout"
    DRAIN = "drain"
    RESUME = "resume"
    PURGE = "purge"
    REMOVE = "remove"


TABLE: Final[dict[Standing, dict[Signal, Standing]]] = {
    Standing.JOINING: {
        Signal.BEAT: Standing.ONLINE,
        Signal.TIMEOUT: Standing.OFFLINE,
        Signal.DRAIN: Standing.DRAINING,
        Signal.REMOVE: Standing.GONE,
    },
    Standing.ONLINE: {
        Signal.SILENCE: Standing.SUSPECT,
        Signal.TIMEOUT: Standing.OFFLINE,
        Signal.DRAIN: Standing.DRAINING,
        Signal.REMOVE: Standing.GONE,
    },
    Standing.SUSPECT: {
        Signal.REGISTER: Standing.ONLINE,
        Signal.BEAT: Standing.ONLINE,
        Signal.TIMEOUT: Standing.OFFLINE,
        Signal.DRAIN: Standing.DRAINING,
        Signal.REMOVE: Standing.GONE,
    },
    Standing.DRAINING: {
        Signal.REGISTER: Standing.ONLINE,
        Signal.TIMEOUT: Standing.OFFLINE,
        Signal.RESUME: Standing.ONLINE,
        Signal.REMOVE: Standing.GONE,
    },
    Standing.OFFLINE: {
        Signal.REGISTER: Standing.ONLINE,
        Signal.BEAT: Standing.ONLINE,
        Signal.PURGE: Standing.GONE,
        Signal.REMOVE: Standing.GONE,
    },
    Standing.GONE: {
        Signal.REGISTER: Standing.JOINING,
    },
}
"""State and signal give the next state. A pair that is not here changes nothing.

A drain outlives a silence: the beat that ends the silence of a drained node is followed by another `DRAIN`.
"""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long silence may last before it means something.

    A lender has a beat waiting all the time, so a short silence tells; a node of the pools door beats three times in
    `timeout_ms`, and is suspect after missing two.
    """

    silent_ms: int = NODE_SILENT_MS
    timeout_ms: int = NODE_LOST_MS
    purge_ms: int = NODE_PURGE_MS

    @property
    def beat_ms(self) -> int:
        """How often a node of the pools door should beat: two may be lost before it is offline."""
        return max(1, self.timeout_ms // 3)

    @property
    def brake_ms(self) -> int:
        """How long a mass silence is doubted, beyond the time-out."""
        return self.timeout_ms

    def suspect_ms(self, node: Node) -> int:
        """When a node's silence begins to tell."""
        late_ms = self.timeout_ms * 2 // 3
        return min(self.silent_ms, late_ms) if node.incarnation is not None else late_ms


class Verdict(NamedTuple):
    """What a look at all silences says: who is past its time, and for whom that is doubted."""

    lost: frozenset[NodeId]
    doubted: frozenset[NodeId]


NO_VERDICT: Final = Verdict(frozenset(), frozenset())


def step(standing: Standing, signal: Signal) -> Standing:
    """The next standing."""
    return TABLE[standing].get(signal, standing)


_STATUS_AFTER: Final[dict[tuple[NodeStatus, Signal], NodeStatus]] = {
    (status, signal): after.status
    for status in NodeStatus
    for signal in Signal
    if (after := step(Standing(status), signal)) is not Standing.GONE
}
"""The table as far as the log stores it, looked up once for each event of a node's life that is replayed."""


def status_after(node: Node, signal: Signal) -> NodeStatus:
    """The status to store for a node that stays, after a signal that is a fact."""
    after = _STATUS_AFTER[node.status, signal]
    if node.drained and signal is Signal.BEAT:
        after = _STATUS_AFTER[after, Signal.DRAIN]
    return after


def standing(node: Node, silence_ms: int | None, patience: Patience, doubted: bool = False) -> Standing:
    """Where a node stands now. `silence_ms` None: nobody promised beats for it, so nobody misses them."""
    now = Standing(node.status)
    if silence_ms is None:
        return now
    if silence_ms > patience.suspect_ms(node):
        now = step(now, Signal.SILENCE)
    if silence_ms > patience.timeout_ms and not doubted:
        now = step(now, Signal.TIMEOUT)
    return now


def judge(silences_ms: Mapping[NodeId, int], watched_count: int, patience: Patience) -> Verdict:
    """What becomes of the nodes that are past their time and not written off yet, of so many that are watched.

    With fewer than `BRAKE_NODES_MIN` of them at once, or no more than `BRAKE_PERCENT` of all, each is lost. Otherwise
    those are doubted whose time ran out of late.
    """
    if len(silences_ms) < BRAKE_NODES_MIN or len(silences_ms) * 100 <= watched_count * BRAKE_PERCENT:
        return Verdict(frozenset(silences_ms), frozenset())
    patient_ms = patience.timeout_ms + patience.brake_ms
    doubted = frozenset(node_id for node_id, silence_ms in silences_ms.items() if silence_ms <= patient_ms)
    return Verdict(frozenset(silences_ms) - doubted, doubted)
