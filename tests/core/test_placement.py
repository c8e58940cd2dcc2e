"""Jobs on engine pools: who would do, who is chosen, and how a job is refused."""

from collections import Counter
from itertools import permutations
from typing import Any

import pytest

from weft.core.placement import (
    Candidate,
    JobNeeds,
    Pools,
    Promised,
    Strategy,
    choose_candidate,
    find_candidates,
    find_models,
)
from weft.model.errors import ModelNotAvailable, NodeUnavailable, PoolUnavailable, WeftError
from weft.model.ids import NodeId
from weft.model.pool import PoolSnapshot, parse_device_mask

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def pool(pool_id: str = "pool-0", **fields: Any) -> PoolSnapshot:
    known = {"ready": True, "slots_free": 2, "slots_total": 4, "vram_free_bytes": 100, "models_available": ("m",)}
    return PoolSnapshot(pool_id=pool_id, **{**known, **fields})


def pools(**described: list[PoolSnapshot]) -> Pools:
    return {NodeId(node): {one.seat: one for one in described[node]} for node in described}


def found(described: Pools, needs: JobNeeds | None = None, **given: Any) -> list[str]:
    candidates = find_candidates(described, given.get("aside", {}), given.get("promised", {}), needs or JobNeeds())
    return [f"{one.node_id}/{one.pool.pool_id}" for one in candidates]


@pytest.mark.parametrize(
    ("described", "needs", "error", "told"),
    [
        (pools(a=[pool(ready=False)]), JobNeeds(), PoolUnavailable, "1 not ready"),
        (pools(a=[pool(draining=True)]), JobNeeds(), PoolUnavailable, "1 draining"),
        (pools(a=[pool(slots_free=0)]), JobNeeds(), PoolUnavailable, "1 without a free slot"),
        (pools(a=[pool()]), JobNeeds(vram_bytes=101), PoolUnavailable, "1 without enough memory"),
        (pools(a=[pool()]), JobNeeds(model="other"), ModelNotAvailable, "'other'"),
        (pools(a=[pool(devices=("0",))]), JobNeeds(devices=frozenset("01")), PoolUnavailable, "without the devices"),
        (pools(a=[pool()]), JobNeeds(devices=frozenset("0")), PoolUnavailable, "without the devices"),
        (pools(a=[pool()]), JobNeeds(pinned=B), NodeUnavailable, "node b"),
        (pools(), JobNeeds(), PoolUnavailable, "no node has described a pool"),
        (pools(), JobNeeds(model="m"), ModelNotAvailable, "'m'"),
    ],
)
def test_each_filter_alone_leaves_nobody_with_its_own_code(
    described: Pools, needs: JobNeeds, error: type[WeftError], told: str
) -> None:
    with pytest.raises(error, match=told):
        find_candidates(described, {}, {}, needs)


def test_a_job_that_asks_for_what_there_is_just_enough_of_is_placed() -> None:
    described = pools(a=[pool(devices=("0", "1"))])
    needs = JobNeeds(model="m", vram_bytes=100, devices=frozenset("01"), pinned=A)
    assert found(described, needs) == ["a/pool-0"]


@pytest.mark.parametrize("needs", [JobNeeds(), JobNeeds(model="m"), JobNeeds(pinned=A)])
def test_a_node_that_is_set_aside_is_offered_nothing(needs: JobNeeds) -> None:
    with pytest.raises((PoolUnavailable, ModelNotAvailable, NodeUnavailable)):
        find_candidates(pools(a=[pool()]), {A: "offline"}, {}, needs)


def test_a_pin_leaves_one_node_and_its_pools() -> None:
    described = pools(a=[pool()], b=[pool("x"), pool("y")])
    assert found(described, JobNeeds(pinned=B)) == ["b/x", "b/y"]


def test_two_nodes_may_call_a_pool_by_one_name() -> None:
    described = pools(a=[pool(slots_free=0)], b=[pool()])
    assert found(described) == ["b/pool-0"]
    assert found(pools(a=[pool()], b=[pool()]), promised={(A, "pool-0", "r0"): Promised(2, 0)}) == ["b/pool-0"]


def test_what_was_promised_counts_as_taken() -> None:
    described = pools(a=[pool(slots_free=2)])
    assert found(described, promised={(A, "pool-0", "r0"): Promised(1, 60)}) == ["a/pool-0"]
    with pytest.raises(PoolUnavailable, match="enough memory"):
        found(described, JobNeeds(vram_bytes=50), promised={(A, "pool-0", "r0"): Promised(1, 60)})
    with pytest.raises(PoolUnavailable, match="free slot"):
        found(described, promised={(A, "pool-0", "r0"): Promised(2, 0)})


def chosen(described: Pools, strategy: Strategy, needs: JobNeeds | None = None, **given: Any) -> Candidate:
    wanted = needs or JobNeeds()
    candidates = find_candidates(described, {}, given.get("promised", {}), wanted)
    return choose_candidate(candidates, wanted, strategy, given.get("last"), given.get("chance", 0))


def test_round_robin_goes_round_evenly_whoever_registered_first() -> None:
    for order in permutations("abc"):
        described = pools(**{node: [pool(slots_free=200, slots_total=200)] for node in order})
        last, names = None, []
        for _ in range(300):
            last = chosen(described, Strategy.ROUND_ROBIN, last=last).key
            names.append(last[0])
        assert Counter(names) == {"a": 100, "b": 100, "c": 100}
        assert names[:4] == ["a", "b", "c", "a"]


def test_round_robin_goes_on_where_it_was_when_a_pool_has_gone() -> None:
    described = pools(a=[pool()], c=[pool()])
    assert chosen(described, Strategy.ROUND_ROBIN, last=(B, "pool-0", "r0")).node_id == C
    assert chosen(described, Strategy.ROUND_ROBIN, last=(C, "pool-0", "r0")).node_id == A


@pytest.mark.parametrize(
    ("described", "winner"),
    [
        (pools(a=[pool(vram_free_bytes=1)], b=[pool(vram_free_bytes=2)]), "b/pool-0"),
        (pools(a=[pool(slots_free=3, vram_free_bytes=1)], b=[pool(slots_free=1, vram_free_bytes=2)]), "b/pool-0"),
        (pools(a=[pool(slots_free=1)], b=[pool(slots_free=2)]), "b/pool-0"),
        (pools(a=[pool(slots_free=3, slots_total=9)], b=[pool(slots_free=1, slots_total=2)]), "b/pool-0"),
        (pools(b=[pool("x")], a=[pool("z"), pool("y")]), "a/y"),
    ],
    ids=["memory", "memory before slots", "busy slots", "busy and not free", "order"],
)
def test_least_loaded_is_most_free_memory_then_fewest_busy_slots_then_the_order(described: Pools, winner: str) -> None:
    one = chosen(described, Strategy.LEAST_LOADED)
    assert f"{one.node_id}/{one.pool.pool_id}" == winner


def test_least_loaded_counts_what_was_promised() -> None:
    described = pools(a=[pool()], b=[pool()])
    assert chosen(described, Strategy.LEAST_LOADED, promised={(A, "pool-0", "r0"): Promised(1, 10)}).node_id == B


def test_random_is_the_chance_it_is_handed() -> None:
    described = pools(a=[pool()], b=[pool()], c=[pool()])
    picked = [chosen(described, Strategy.RANDOM, chance=chance).node_id for chance in range(6)]
    assert picked == ["a", "b", "c", "a", "b", "c"]


def test_a_session_stays_while_there_is_room_and_goes_elsewhere_when_there_is_none() -> None:
    described = pools(a=[pool()], b=[pool()])
    assert chosen(described, Strategy.ROUND_ROBIN, JobNeeds(preferred=B)).node_id == B
    full = pools(a=[pool()], b=[pool(slots_free=0)])
    assert chosen(full, Strategy.ROUND_ROBIN, JobNeeds(preferred=B)).node_id == A


def test_a_node_that_failed_a_session_is_avoided_while_another_would_do() -> None:
    described = pools(a=[pool()], b=[pool()])
    assert chosen(described, Strategy.ROUND_ROBIN, JobNeeds(avoided=A)).node_id == B
    assert chosen(pools(a=[pool()]), Strategy.ROUND_ROBIN, JobNeeds(avoided=A)).node_id == A


def test_a_model_is_counted_by_node_and_its_capacity_by_slot() -> None:
    described = pools(
        a=[pool("x", models_available=("m", "n")), pool("y", models_available=("m", "m"))],
        b=[pool(models_available=("m",), ready=False)],
        c=[pool(models_available=("n",))],
    )
    assert find_models(described, {C}) == [("m", ("a", "b"), 8), ("n", ("a",), 4)]


@pytest.mark.parametrize(("mask", "devices"), [("0,1", ("0", "1")), ("GPU1, GPU0,", ("GPU0", "GPU1")), ("", ())])
def test_a_device_mask_is_a_list_of_devices(mask: str, devices: tuple[str, ...]) -> None:
    assert parse_device_mask(mask) == devices


def test_a_job_goes_to_a_replica_and_takes_that_ones_slot() -> None:
    described = pools(a=[pool(replica_id="r1", slots_free=1), pool(replica_id="r0", slots_free=1)])
    first = chosen(described, Strategy.ROUND_ROBIN)
    assert first.key == (A, "pool-0", "r0")
    second = chosen(described, Strategy.ROUND_ROBIN, last=first.key, promised={first.key: Promised(1, 0)})
    assert second.key == (A, "pool-0", "r1")
    with pytest.raises(PoolUnavailable, match="2 without a free slot"):
        find_candidates(described, {}, {one.key: Promised(1, 0) for one in (first, second)}, JobNeeds())
