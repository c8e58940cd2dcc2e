"""One call: the request it becomes, when it is made again, and which error it ends in."""

import random

import pytest

from tests.client.fakes import FakeClock, ScriptedHttp, answer, perform, refusal, region_body
from weft.api.errors import Family, envelope
from weft.client.coordinator import Coordinator
from weft.client.flow import run
from weft.client.ports import Response
from weft.model.errors import (
    CapacityExceeded,
    ClusterNotFound,
    Disconnected,
    Failed,
    LenderSilent,
    RegionNotFound,
    TimedOut,
    Unavailable,
    Unreachable,
    WeftError,
)


def test_a_call_is_the_route_with_its_path_its_query_and_its_token() -> None:
    http = ScriptedHttp(answer({"status": "deleting", "name": "a b"}))

    perform(Coordinator("token").delete_region("a b/c", force=True), http)

    [request] = http.requests
    assert (request.method, request.target) == ("DELETE", "/regions/a%20b%2Fc?force=1")
    assert request.headers["authorization"] == "Bearer token"
    assert len(request.headers["weft-request-id"]) == 16
    assert request.body is None


@pytest.mark.parametrize(
    ("response", "kind", "sentence"),
    [
        (refusal("REGION_NOT_FOUND", "no region x", 404, region="x"), RegionNotFound, "no region x"),
        (answer({"detail": "no cluster", "code": "CLUSTER_NOT_FOUND"}, 404), ClusterNotFound, "no cluster"),
        (refusal("SOMETHING_NEWER", "of a later version", 409), Failed, "of a later version"),
        (Response(status=404, headers={}, body=b"<html>nginx</html>"), Failed, "no Weft coordinator"),
        (Response(status=200, headers={}, body=b'{"name": "\xff"}'), Failed, "not what this version of Weft expects"),
        (Response(status=404, headers={}, body=b'{"error": "\xff", "code": "X"}'), Failed, "no Weft coordinator"),
        (answer({"name": 1}), Failed, "not what this version of Weft expects"),
    ],
)
def test_a_refusal_is_the_error_its_code_stands_for(response: Response, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        perform(Coordinator().region("x"), ScriptedHttp(response))


def test_the_facts_of_a_refusal_are_the_fields_of_the_error() -> None:
    http = ScriptedHttp(refusal("CAPACITY_EXCEEDED", "too large", 409, wanted_bytes=8, free_bytes=4))

    with pytest.raises(CapacityExceeded) as refused:
        perform(Coordinator().plan_region("x", 8), http)

    assert (refused.value.wanted_bytes, refused.value.free_bytes) == (8, 4)


def test_a_request_whose_fate_is_unknown_is_made_again_under_the_same_id() -> None:
    http = ScriptedHttp(Disconnected("cut"), TimedOut("slow"), answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    assert len({request.headers["weft-request-id"] for request in http.requests}) == 1


def test_a_temporary_refusal_is_an_answer_and_is_asked_anew() -> None:
    http = ScriptedHttp(refusal("UNAVAILABLE", "not now", 503), answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    assert len({request.headers["weft-request-id"] for request in http.requests}) == 2


def test_pauses_grow_and_end_with_the_patience() -> None:
    clock = FakeClock()
    http = ScriptedHttp(*[Unreachable("nobody") for _ in range(100)])

    with pytest.raises(Unreachable):
        perform(Coordinator(patience_s=10).region("x"), http, clock)

    assert clock.at_s <= 1010
    assert clock.slept_s[0] <= 0.05
    assert max(clock.slept_s) <= 2.0
    assert 8 <= len(http.requests) <= 20


def test_no_two_callers_pause_in_step() -> None:
    def pauses(chance: int) -> list[float]:
        clock = FakeClock()
        with pytest.raises(Unreachable):
            run(
                Coordinator(patience_s=10).region("x"),
                ScriptedHttp(*[Unreachable("nobody") for _ in range(100)]),
                clock,
                random.Random(chance),
            )
        return clock.slept_s

    first, other = pauses(1), pauses(2)
    assert not set(first) & set(other)
    assert all(0.5 * min(0.05 * 2**attempt, 2.0) <= pause_s for attempt, pause_s in enumerate(first))


def test_what_cannot_be_mended_by_trying_is_raised_at_once() -> None:
    http = ScriptedHttp(refusal("REGION_NOT_FOUND", "no region x", 404))

    with pytest.raises(RegionNotFound):
        perform(Coordinator().region("x"), http)

    assert len(http.requests) == 1


def test_no_request_may_take_longer_than_the_patience_that_is_left() -> None:
    http = ScriptedHttp(answer(region_body()))

    perform(Coordinator(patience_s=0.5).region("x"), http)

    assert http.timeouts_s == [0.5]


def test_a_gateway_in_between_that_says_503_is_tried_again() -> None:
    http = ScriptedHttp(Response(status=503, headers={}, body=b"busy"), answer(region_body()))

    assert perform(Coordinator().region("scratch"), http).name == "scratch"


def test_a_silent_lender_is_waited_for_and_named_in_the_end() -> None:
    silent = refusal("LENDER_SILENT", "b did not confirm", 503, nodes=["b"])
    clock = FakeClock()
    http = ScriptedHttp(answer(region_body()), *[silent] * 100)

    with pytest.raises(LenderSilent, match="b did not confirm"):
        perform(Coordinator().attach("scratch", "exclusive", "me"), http, clock)

    assert http.targets[1] == "POST /regions/scratch/attachments"
    assert Unavailable.temporary


@pytest.mark.parametrize("family", [Family.WEFT, Family.CLUSTER, Family.POOLS, Family.STORAGE])
def test_what_a_failed_journal_may_have_committed_is_repeated_under_its_id_in_every_family(family: Family) -> None:
    unsure = answer(envelope(Unavailable("nothing can be written now", reason="journal"), family), 503)
    http = ScriptedHttp(unsure, answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    first, second = (request.headers["weft-request-id"] for request in http.requests[:2])
    assert first == second


def test_what_a_gateway_in_between_lost_is_repeated_under_its_id() -> None:
    http = ScriptedHttp(Response(status=502, headers={}, body=b"bad gateway"), answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    first, second = (request.headers["weft-request-id"] for request in http.requests[:2])
    assert first == second


NOT_YET = refusal("DA_NOT_AVAILABLE_YET", "position 7 is committed, and no layer holds it", 504, position=7)
NO_LAYER = refusal("DA_UNAVAILABLE", "no availability layer can take a write now, and nothing was done", 503)
BUSY = refusal("UNAVAILABLE", "5000 commands are waiting already", 503, reason="busy")
STOPPING = refusal("UNAVAILABLE", "the coordinator is stopping", 503, reason="stopping")


def test_what_was_committed_and_is_not_available_yet_is_repeated_under_its_id() -> None:
    http = ScriptedHttp(NOT_YET, NOT_YET, answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    assert len({request.headers["weft-request-id"] for request in http.requests}) == 1


@pytest.mark.parametrize(
    "lost", [Disconnected("cut"), TimedOut("slow"), NOT_YET, Response(status=502, headers={}, body=b"")]
)
@pytest.mark.parametrize("undecided", [Unreachable("nobody"), BUSY, STOPPING, NO_LAYER])
def test_a_try_that_may_have_been_carried_out_keeps_its_id_until_somebody_has_decided(
    lost: Response | WeftError, undecided: Response | WeftError
) -> None:
    http = ScriptedHttp(lost, undecided, undecided, answer(region_body()))

    perform(Coordinator().plan_region("scratch", 4 << 20), http)

    assert len({request.headers["weft-request-id"] for request in http.requests}) == 1


def test_what_was_decided_after_a_lost_answer_is_the_answer_and_what_follows_is_asked_anew() -> None:
    silent = refusal("LENDER_SILENT", "b did not confirm", 503, nodes=["b"])
    http = ScriptedHttp(answer(region_body()), Disconnected("cut"), silent, *[silent] * 100)

    with pytest.raises(LenderSilent):
        perform(Coordinator().attach("scratch", "exclusive", "me"), http)

    _, first, second, third, fourth, *_ = (request.headers["weft-request-id"] for request in http.requests)
    assert first == second
    assert len({second, third, fourth}) == 3
