"""Jobs on engine pools: which replicas of them would do, and which of those a job goes to.

A replica would do when its node is given work, it is ready and not draining, and it has a free slot, enough free
memory, the model and the devices. What others were promised since the node last spoke counts as taken. Candidates stand
in order of (node, pool, replica), so that nothing depends on who registered first.

    round robin    the next candidate after the one chosen last, around the order
    least loaded   most free memory, then fewest busy slots, then first in the order
    random         by chance that is handed in

A job is refused by the narrowest thing that is true: the node asked for by name is not to be had, then no node has the
model, then no pool that would do is free.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from weft.model.errors import ModelNotAvailable, NodeUnavailable, PoolUnavailable
from weft.model.ids import NodeId
from weft.model.pool import PoolKey, PoolSnapshot, Seat

Pools = Mapping[NodeId, Mapping[Seat, PoolSnapshot]]


_NAMED_MAX = 5
"""Nodes a refusal names; whoever has more of them wants a number."""


class Strategy(StrEnum):
    """How to choose among pools that would do."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    RANDOM = "random"


class JobNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs. `pinned` is the one node it may be on; `preferred` and `avoided` are only leanings."""

    model: str | None = None
    vram_bytes: int = 0
    devices: frozenset[str] = frozenset()
    pinned: NodeId | None = None
    preferred: NodeId | None = None
    avoided: NodeId | None = None


class Promised(NamedTuple):
    """What of a pool was promised to jobs since its node last spoke."""

    slots: int = 0
    vram_bytes: int = 0


class Candidate(NamedTuple):
    """A pool that would do, with what is left of it."""

    node_id: NodeId
    pool: PoolSnapshot
    vram_free_bytes: int
    slots_busy: int

    @property
    def key(self) -> PoolKey:
        """What the replica is known by."""
        return self.node_id, *self.pool.seat


def find_candidates(
    pools: Pools, aside: Mapping[NodeId, str], promised: Mapping[PoolKey, Promised], needs: JobNeeds
) -> list[Candidate]:
    """The pools that would do, in order. Raises what refuses the job when there is none."""
    if needs.pinned is not None and (needs.pinned in aside or needs.pinned not in pools):
        raise NodeUnavailable(f"node {needs.pinned} is not there, or is given no work", node_id=needs.pinned)
    within: Iterable[NodeId] = pools if needs.pinned is None else (needs.pinned,)
    alive = [(node_id, pool) for node_id in within if node_id not in aside for pool in pools[node_id].values()]
    if needs.model is not None and not any(needs.model in pool.models_available for _, pool in alive):
        raise ModelNotAvailable(f"no node that is given work has the model {needs.model!r}", model=needs.model)
    found: list[Candidate] = []
    refused: Counter[str] = Counter()
    for node_id, pool in alive:
        taken = promised.get((node_id, *pool.seat), Promised())
        why = _refusal(pool, taken, needs)
        if why is not None:
            refused[why] += 1
            continue
        busy = pool.slots_total - pool.slots_free + taken.slots
        found.append(Candidate(node_id, pool, pool.vram_free_bytes - taken.vram_bytes, busy))
    if not found:
        told = ", ".join(f"{count} {why}" for why, count in sorted(refused.items())) or _nobody(within, aside)
        raise PoolUnavailable(f"no engine pool can take this now: {told}", refused=dict(refused))
    found.sort(key=_order)
    return found


def choose_candidate(
    candidates: list[Candidate], needs: JobNeeds, strategy: Strategy, last: PoolKey | None, chance: int
) -> Candidate:
    """The candidate a job goes to. `last` is the one chosen before, `chance` any number nobody could foresee."""
    if needs.preferred is not None:
        candidates = [one for one in candidates if one.node_id == needs.preferred] or candidates
    if needs.avoided is not None:
        candidates = [one for one in candidates if one.node_id != needs.avoided] or candidates
    if strategy is Strategy.LEAST_LOADED:
        return min(candidates, key=_load)
    if strategy is Strategy.RANDOM:
        return candidates[chance % len(candidates)]
    if last is None:
        return candidates[0]
    return next((one for one in candidates if one.key > last), candidates[0])


class ModelPlaces(NamedTuple):
    """Where a model is to be had, and how many slots the open pools with it have in all."""

    model_id: str
    nodes: tuple[NodeId, ...]
    capacity: int


def find_models(pools: Pools, aside: Collection[NodeId]) -> list[ModelPlaces]:
    """Every model of every node that is given work, in order of name. A node counts once, whatever pools have it."""
    nodes: dict[str, set[NodeId]] = {}
    capacity: Counter[str] = Counter()
    for node_id, described in pools.items():
        if node_id in aside:
            continue
        for pool in described.values():
            for model in set(pool.models_available):
                nodes.setdefault(model, set()).add(node_id)
                capacity[model] += pool.slots_total if pool.is_open else 0
    return [ModelPlaces(model, tuple(sorted(nodes[model])), capacity[model]) for model in sorted(nodes)]


def _refusal(pool: PoolSnapshot, taken: Promised, needs: JobNeeds) -> str | None:
    """Why a pool would not do, in words that can be counted."""
    if not pool.ready:
        return "not ready"
    if pool.draining:
        return "draining"
    if needs.model is not None and needs.model not in pool.models_available:
        return "without the model"
    if needs.devices and not needs.devices <= frozenset(pool.devices or ()):
        return "without the devices"
    if pool.vram_free_bytes - taken.vram_bytes < needs.vram_bytes:
        return "without enough memory"
    if pool.slots_free - taken.slots <= 0:
        return "without a free slot"
    return None


def _nobody(within: Iterable[NodeId], aside: Mapping[NodeId, str]) -> str:
    """Why there was no pool to look at: nobody has any, or whoever has is given no work."""
    away = sorted((node_id, aside[node_id]) for node_id in within if node_id in aside)
    if not away:
        return "no node has described a pool"
    told = ", ".join(f"{node_id}: {why}" for node_id, why in away[:_NAMED_MAX])
    more = f", and {len(away) - _NAMED_MAX} more" if len(away) > _NAMED_MAX else ""
    return f"no node that described a pool is given work ({told}{more})"


def _order(candidate: Candidate) -> PoolKey:
    return candidate.key


def _load(candidate: Candidate) -> tuple[int, int, PoolKey]:
    return -candidate.vram_free_bytes, candidate.slots_busy, candidate.key
