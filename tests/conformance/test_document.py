"""The OpenAPI document is true: requests made from it, right ones and wrong ones, are answered as it says.

The application runs in this process on a journal in memory. Half of the requests name things that are there, so that
what lies behind a 404 is met too. The clock runs through a minute at every look, so that nobody waits for news: who
asks to wait is answered as if the time had passed.
"""

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.worlds import SECRET, CountingRandom, Door, FakeClock, Lender
from weft.api.openapi import describe
from weft.api.routes import ROUTES, Route
from weft.coordinator.app import Coordinator, Limits
from weft.ledger import MemoryJournal
from weft.telemetry import Log

SEED = 7
EXAMPLES = 25
# Nothing here waits; this is when something is wrong.
DEADLINE_S = 20.0
CONTENT = "1" * 64
DOCUMENT = schemathesis.openapi.from_dict(json.loads(json.dumps(describe(ROUTES, "0.0.0"))))


def only_promised_server_errors(context: Any, response: Any, case: Any) -> None:
    """503 and 504 are answers, where the document has them: what was asked for is not to be had now."""
    promised = case.operation.definition.raw["responses"]
    if response.status_code not in (503, 504) or str(response.status_code) not in promised:
        not_a_server_error(context, response, case)


CHECKS = [
    only_promised_server_errors,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def names_what_cannot_be(case: Any) -> bool:
    """Whether it is the path that is wrong about a wrong request."""
    path = case.meta.components.get(ParameterLocation.PATH)
    return path is not None and path.mode.is_negative


class HastyClock(FakeClock):
    """Every look at it is a minute later than the one before."""

    def monotonic_ms(self) -> int:
        self.ms += 60_000
        return self.ms


class World:
    """A coordinator with one of everything, asked from outside its loop."""

    def __init__(self) -> None:
        clock, log = HastyClock(), io.StringIO()
        self.runner = asyncio.Runner()
        self.coordinator = Coordinator(
            MemoryJournal(),
            clock,
            CountingRandom(),
            Log(log, clock.now_ms),
            secret=SECRET,
            name="test",
            home=False,
            limits=Limits(sweep_ms=3_600_000),
        )
        self.runner.run(self.coordinator.start())
        self.door = Door(self.coordinator, clock, log)
        self.known: dict[str, str] = {}
        self.populate()

    def populate(self) -> None:
        """One of everything, as far as the last request has left anything to be desired."""
        self.known = self.runner.run(self._populate())

    async def _populate(self) -> dict[str, str]:
        door = self.door
        lender = Lender(door, "a", lend_stripes=8)
        await door("POST", "/cluster", {"name": "c"})
        pool = {"node_id": "a", "machine_id": "m", "address": "http://10.0.0.1:9200", "pools": ["p"]}
        await door("POST", "/v2/nodes/register", pool)
        await door("POST", "/nodes/a/resume")
        await door("POST", "/nodes/a/endpoint", {"transport_type": "tcp", "tcp_addr": "10.0.0.1", "tcp_port": 50051})
        slots = {"pool_id": "p", "ready": True, "slots_free": 9, "slots_total": 9, "models_available": ["m"]}
        await door("POST", "/v2/nodes/a/heartbeat", {"pools": [slots]})
        await door("POST", "/node/a/stats", {"cpu_free": 1, "ram_free_mb": 1})
        await door("POST", "/object/register", {"hash": CONTENT, "size": 1})
        await door("POST", "/regions", {"name": "r", "size_bytes": 1})
        placed = await door("POST", "/v2/placements", {})
        return {
            "node_id": lender.node_id,
            "hash": CONTENT,
            "name": "r",
            "gpa": "0x0",
            "placement_id": placed.json().get("placement_id", "p" + "0" * 16),
        }

    def ask(self, case: Any) -> httpx.Response:
        """The answer to a case, as it would be put on the wire."""
        given = case.as_transport_kwargs(base_url="http://coordinator")
        request = self.door.http.build_request(
            given["method"],
            given["url"],
            params=given.get("params") or None,
            headers=dict(given["headers"] or {}),
            json=given.get("json"),
            content=given.get("data"),
        )
        if request.url.path == "/events":
            # A stream that follows the log ends with its caller, and this caller waits for the end.
            asked = request.url.params.get_list("follow")
            if not asked or asked[-1].lower() in ("true", "1"):
                request.url = request.url.copy_set_param("follow", "false")
        return self.runner.run(asyncio.wait_for(self.door.http.send(request), DEADLINE_S))

    def close(self) -> None:
        self.runner.run(self.door.http.aclose())
        self.runner.run(self.coordinator.stop())
        self.runner.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_a_request_made_from_the_document_is_answered_as_the_document_says(
    world: World, route: Route, mode: GenerationMode
) -> None:
    operation = DOCUMENT[route.path][route.method]
    checks = [*CHECKS, negative_data_rejection] if mode.is_negative else CHECKS

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), known=st.booleans())
    def check(case: Any, known: bool) -> None:
        if known:
            world.populate()
        if known and not names_what_cannot_be(case):
            case.path_parameters = {
                name: world.known.get(name, value) for name, value in (case.path_parameters or {}).items()
            }
        case.validate_response(world.ask(case), checks=checks)

    check()
