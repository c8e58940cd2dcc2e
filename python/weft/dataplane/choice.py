"""Which transport a peer is reached by: one table, of what both ends registered and what they found out as they met.

Best first: `ipc` between neighbours, `rdma` where both ends registered it, `tcp` always. `tcpx` (TCP through a bounce
buffer) goes before all of them where a process asks for it, and is not chosen otherwise. Whatever is better than what
was chosen is named with the reason it was not.

A node that registers one half of its endpoint prefers it from then on, and the other half stays in the record. So an
RDMA half counts only while its node prefers it: one that lost its device says so by registering TCP again.

Pure: whoever connects finds out, chooses by this, tries, and chooses again with what failed.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from weft.dataplane.rdma import RdmaRecord

RANKING: Final = ("ipc", "rdma", "tcp")
"""What is tried without being asked for, best first."""


class Registered(Struct, frozen=True, kw_only=True):
    """What one node registered with the coordinator. `version` grows with every registration."""

    name: str
    host: str
    port: int
    rdma: RdmaRecord | None = None
    prefers: str = "tcp"
    version: int = 0


class Meeting(Struct, frozen=True, kw_only=True):
    """What two processes found out about each other when they greeted. One that answers here is open to neighbours."""

    same_machine: bool
    same_user: bool
    answers_here: bool
    answers_there: bool


class PassedOver(Struct, frozen=True, kw_only=True):
    """A better transport, and why it is not used."""

    transport: str
    reason: str


class Choice(Struct, frozen=True, kw_only=True):
    """The transport to use, and the better ones that cannot be."""

    peer: str
    transport: str
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not the better ones, a sentence each."""
        return tuple(f"{one.transport} not used with {self.peer}: {one.reason}" for one in self.passed_over)

    def __str__(self) -> str:
        return "; ".join((f"{self.peer} is reached by {self.transport}", *self.reasons))


class _Case(Struct, frozen=True):
    """One row's question: two records, and what is known of the way between them."""

    ours: Registered
    theirs: Registered
    meeting: Meeting


def choose(
    ours: Registered,
    theirs: Registered,
    meeting: Meeting,
    *,
    only: str | None = None,
    failed: Mapping[str, str] | None = None,
) -> Choice:
    """The best transport there is. `only` keeps to one, where it works; `failed` are those that were tried, and how."""
    case, tried = _Case(ours, theirs, meeting), failed or {}
    passed_over: list[PassedOver] = []
    ranking = RANKING if only in (None, *RANKING) else (only, *RANKING)
    for transport in ranking:
        reason = _excluded(transport, only) or _TABLE[transport](case) or tried.get(transport)
        if reason is None or transport == "tcp":
            # TCP is what every node has: it is used also where something else was asked for.
            return Choice(peer=theirs.name, transport=transport, passed_over=tuple(passed_over))
        passed_over.append(PassedOver(transport=transport, reason=reason))
    raise AssertionError("TCP ends the ranking")


def _excluded(transport: str, only: str | None) -> str | None:
    return None if only in (None, transport) else f"WEFT_TRANSPORT keeps this process to {only}"


def _ipc(case: _Case) -> str | None:
    met = case.meeting
    if not met.answers_here:
        return f"{case.ours.name} answers no neighbours"
    if not met.answers_there:
        return f"{case.theirs.name} answers no neighbours"
    if not met.same_machine:
        return f"{case.theirs.name} runs on another machine, or in a container of its own"
    return None if met.same_user else f"{case.theirs.name} runs as another user"


def _rdma(case: _Case) -> str | None:
    for side in (case.ours, case.theirs):
        if side.rdma is None:
            return f"{side.name} registered none"
        if side.prefers != "rdma":
            return f"{side.name} registered {side.prefers} after it"
    here, there = _fabric(case.ours), _fabric(case.theirs)
    return None if here == there else f"{case.ours.name} is on {here} and {case.theirs.name} on {there}"


def _fabric(side: Registered) -> str:
    """A LID is an address in an InfiniBand subnet; Ethernet has none."""
    return "Ethernet" if side.rdma is None or side.rdma.lid == 0 else "InfiniBand"


def _always(case: _Case) -> str | None:  # noqa: ARG001 - a row of the table, and this one has no condition.
    return None


_TABLE: Final[Mapping[str, Callable[[_Case], str | None]]] = {
    "ipc": _ipc,
    "rdma": _rdma,
    "tcpx": _always,
    "tcp": _always,
}
