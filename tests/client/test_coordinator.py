"""The longer stories: finding or planning a region, waiting until it is ready."""

import pytest

from tests.client.fakes import FakeClock, ScriptedHttp, answer, perform, refusal, region_body
from weft.client.coordinator import Coordinator
from weft.client.ports import Request, Response
from weft.model.errors import BadArgument, RegionNotFound, RegionNotReady, TimedOut

ABSENT = refusal("REGION_NOT_FOUND", "no region scratch", 404)
MIB = 1 << 20


def test_a_region_that_is_there_is_taken_as_it_is() -> None:
    http = ScriptedHttp(answer(region_body()))

    assert perform(Coordinator().find_or_plan_region("scratch", None), http).size_bytes == 4 * MIB
    assert http.targets == ["GET /regions/scratch"]


def test_a_region_that_is_not_there_is_planned_when_a_size_is_given() -> None:
    http = ScriptedHttp(ABSENT, answer(region_body(state="planned"), 201))

    assert perform(Coordinator().find_or_plan_region("scratch", 4 * MIB), http).state == "planned"
    assert http.targets == ["GET /regions/scratch", "POST /regions"]


def test_a_region_that_is_not_there_is_an_error_with_the_remedy_when_no_size_is_given() -> None:
    with pytest.raises(RegionNotFound, match="give a size"):
        perform(Coordinator().find_or_plan_region("scratch", None), ScriptedHttp(ABSENT))


def test_a_region_another_program_made_meanwhile_is_taken() -> None:
    exists = refusal("REGION_EXISTS", "scratch exists", 409)
    http = ScriptedHttp(ABSENT, exists, answer(region_body()))

    assert perform(Coordinator().find_or_plan_region("scratch", 4 * MIB), http).state == "ready"


def test_a_region_of_another_size_is_refused_with_both_sizes() -> None:
    http = ScriptedHttp(answer(region_body()))

    with pytest.raises(BadArgument, match=r"4194304 bytes and 8388608") as refused:
        perform(Coordinator().find_or_plan_region("scratch", 8 * MIB), http)
    assert (refused.value.size_bytes, refused.value.wanted_bytes) == (4 * MIB, 8 * MIB)


def test_a_planned_region_is_waited_for_with_waiting_questions() -> None:
    planned = answer(region_body(state="planned"))
    http = ScriptedHttp(planned, planned, answer(region_body()))

    assert perform(Coordinator().ready_region("scratch"), http).state == "ready"
    assert http.targets == ["GET /regions/scratch", *["GET /regions/scratch?wait_ms=5000"] * 2]


def test_a_region_that_failed_says_why() -> None:
    http = ScriptedHttp(answer(region_body(state="failed", error="node a: no memory")))

    with pytest.raises(RegionNotReady, match="node a: no memory"):
        perform(Coordinator().ready_region("scratch"), http)


def test_a_damaged_region_is_usable() -> None:
    http = ScriptedHttp(answer(region_body(state="damaged", lost_extents=[0])))

    assert perform(Coordinator().ready_region("scratch"), http).state == "damaged"


def test_waiting_for_a_region_ends_after_a_time_that_grows_with_its_size() -> None:
    clock = FakeClock()

    def planned(request: Request) -> Response:
        clock.at_s += 5
        return answer(region_body(state="planned", size_bytes=500 * 1000 * 1000 * 100))

    with pytest.raises(TimedOut, match="160 s"):
        perform(Coordinator().ready_region("scratch"), ScriptedHttp(*[planned] * 100), clock)
    assert clock.at_s == pytest.approx(1165, abs=6)
