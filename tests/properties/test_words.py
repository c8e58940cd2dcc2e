"""Beats that repeat the last one, against a coordinator that reads every beat anew: nobody can tell the two apart."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import Door, coordinator_door
from weft.api.bodies.pools import PoolBody
from weft.coordinator.observations import Observations
from weft.model.node import Node
from weft.model.policy import NODE_LOST_MS

LIVES = st.sampled_from([1, 2])
POOLS = st.sampled_from([["p", "q"], ["p"], []])
POOL: dict[str, Any] = {"pool_id": "p", "ready": True, "slots_free": 1, "slots_total": 2, "url": "http://10.0.0.1:8081"}
BOTH = [POOL, {**POOL, "pool_id": "q"}]
WORDS = st.sampled_from([[POOL], [{**POOL, "ready": False}], BOTH, []])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), POOLS),
        st.tuples(st.just("pools door"), WORDS),
        st.tuples(st.just("pools door"), WORDS),
        st.tuples(st.just("own door"), WORDS, LIVES),
        st.tuples(st.just("again")),
        st.tuples(st.just("again")),
        st.tuples(st.just("place")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("drain")),
        st.tuples(st.just("leave")),
    ),
    max_size=20,
)


END = [
    *[("place",), ("again",), ("place",)],
    *[("lose",), ("again",), ("again",)],
    *[("register", ["p"]), ("own door", BOTH, 3), ("again",), ("pools door", BOTH)],
]
"""How every story ends: slots are settled, a node comes back with its old word, and a pool is taken at neither door."""


class Reader(Observations):
    """Takes no word for one it has heard before."""

    def knows(self, node: Node, pools: Sequence[PoolBody]) -> bool:
        return False


async def tell(steps: list[Any]) -> list[Any]:
    """What everybody saw after each step of a story, and the lines about it. Any refusal is part of it."""
    seen: list[Any] = []
    async with coordinator_door(home=False) as door:
        last: Any = ("pools door", [POOL])
        for step in [("register", ["p"]), last, *steps, *END]:
            told = last if step[0] == "again" else step
            seen.append(await take(door, told))
            seen += [(await door("GET", path)).json() for path in ("/v2/nodes", "/engines")]
            last = told if told[0].endswith("door") else last
        seen += [line for line in door.log.getvalue().splitlines() if "adapter" in line or "left out" in line]
    return seen


async def take(door: Door, step: Any) -> Any:
    match step:
        case ("register", pools):
            body = {"node_id": "a", "machine_id": "m", "address": "a:1", "pools": pools}
            answer = await door("POST", "/v2/nodes/register", body)
        case ("pools door", pools):
            answer = await door("POST", "/v2/nodes/a/heartbeat", {"pools": pools})
        case ("own door", pools, life):
            body = {"incarnation": f"{life:016x}", "generation": 0, "wait_ms": 0, "observations": {"pools": pools}}
            answer = await door("POST", "/nodes/a/beat", body)
        case ("place",):
            answer = await door("POST", "/v2/placements", {})
        case ("lose",):
            door.clock.advance(NODE_LOST_MS + 1)
            await door.coordinator.sweep.look()
            return None
        case ("drain",):
            answer = await door("POST", "/nodes/a/drain")
        case ("leave",):
            answer = await door("DELETE", "/v2/nodes/a")
    return answer.status_code, answer.text


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_a_word_that_is_known_again_changes_nothing_that_anybody_sees(steps: list[Any]) -> None:
    known = asyncio.run(tell(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weft.coordinator.app.Observations", Reader)
        assert known == asyncio.run(tell(steps))
