"""What holds for every route, checked by walking the route table."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.worlds import Door, run, seed_node
from weft import __version__
from weft.api.bodies.fields import words_for
from weft.api.errors import STATUS, Family, envelope, status_of, status_of_class
from weft.api.openapi import describe
from weft.api.routes import ROUTES, Route
from weft.model.errors import LenderSilent, NodeNotFound, TimedOut, Unavailable, WeftError
from weft.serve.call import read_body

GOLDEN = Path(__file__).parent / "openapi.json"
WITH_BODY = [route for route in ROUTES if route.body is not None]
WITH_FIELDS = [route for route in WITH_BODY if msgspec.inspect.type_info(route.body).fields]  # type: ignore[attr-defined]
OWN = [route for route in WITH_BODY if route.family is Family.WEFT]

ENDING = [route for route in ROUTES if route.operation != "watch_events"]  # A stream has tests of its own.
KEYS = {
    Family.CLUSTER: {"detail", "code"},
    Family.POOLS: {"success", "message", "code"},
    Family.STORAGE: {"error", "code", "fields", "temporary"},
    Family.DA: {"success", "error", "code"},
    Family.WEFT: {"error", "code", "fields", "temporary"},
}


def by_operation(routes: list[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", routes, ids=[route.operation for route in routes])


def path(route: Route) -> str:
    """A path of this route that is well formed."""
    known = {"attachment_id": "a" + "0" * 16, "gpa": "0x0"}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], "x"), route.path)


def check_envelope(route: Route, body: dict[str, Any], code: str) -> None:
    told = {"fields"} if code in ("MISSING_TOKEN", "BAD_TOKEN") else set()
    assert set(body) - {"node_id"} == KEYS[route.family] | told
    assert ("node_id" in body) is (route.family is Family.POOLS) or route.family is Family.STORAGE
    assert body["code"] == (code if route.family is not Family.POOLS or code != "INVALID_FIELD" else "INVALID_PARAMS")


@by_operation(ENDING)
def test_every_answer_says_where_in_the_log_it_stands_and_which_request_it_is_to(route: Route) -> None:
    async def story(door: Door) -> None:
        answer = await door(route.method, path(route), b"{}" if route.body else None, weft_request_id="mine-1")
        assert answer.headers["weft-position"] == str(door.coordinator.writer.state.marks.position)
        assert answer.headers["weft-request-id"] == "mine-1"
        minted = await door(route.method, path(route), b"{}" if route.body else None)
        assert minted.headers["weft-request-id"] not in ("", "mine-1")

    run(story)


@by_operation(WITH_BODY)
@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"a": 1,}', b"\xff\xfe", b'{"a"'])
def test_what_is_not_json_is_malformed(route: Route, body: bytes) -> None:
    async def story(door: Door) -> None:
        answer = await door(route.method, path(route), body)
        assert answer.status_code == 400
        check_envelope(route, answer.json(), "MALFORMED_JSON")

    run(story, home=not route.cloud_only)


@by_operation(WITH_FIELDS)
@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'"text"', b"7"])
def test_the_wrong_json_is_a_wrong_field(route: Route, body: bytes) -> None:
    async def story(door: Door) -> None:
        if body == b"{}" and not any(field.required for field in msgspec.structs.fields(route.body)):
            return
        answer = await door(route.method, path(route), body)
        assert answer.status_code == (400 if route.family is Family.POOLS else 422)
        check_envelope(route, answer.json(), "INVALID_FIELD")

    run(story, home=not route.cloud_only)


@by_operation(WITH_BODY)
def test_a_body_over_the_bound_is_refused_and_not_read(route: Route) -> None:
    async def story(door: Door) -> None:
        answer = await door(route.method, path(route), b" " * (route.body_bytes_max + 1))
        assert answer.status_code == 413
        check_envelope(route, answer.json(), "BODY_TOO_LARGE")

    run(story, home=not route.cloud_only)


@by_operation(OWN)
def test_weft_s_own_routes_refuse_fields_they_do_not_know(route: Route) -> None:
    async def story(door: Door) -> None:
        answer = await door(route.method, path(route), {"colour": "blue"})
        assert answer.status_code == 422
        assert "colour" in answer.json()["error"]

    run(story)


@by_operation(ENDING)
def test_a_route_wants_a_token_where_tokens_are_wanted(route: Route) -> None:
    async def story(door: Door) -> None:
        body = b"{}" if route.body else None
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "bearer right"}):
            answer = await door(route.method, path(route), body, x_correlation_id="mine", **header)
            assert answer.headers["x-correlation-id"] == "mine"
            assert (answer.status_code == 401) is not route.open_to_all
        if not route.open_to_all:
            check_envelope(route, answer.json(), "MISSING_TOKEN")
            assert answer.json()["fields"]["number"] == 40101, "by the node seed, whichever door it was"
            assert answer.headers["www-authenticate"] == "Bearer"
        for token in ("right", "old"):
            accepted = await door(route.method, path(route), body, authorization=f"Bearer {token}")
            assert accepted.status_code != 401

    run(story, tokens=("right", "old"))


@by_operation(ENDING)
def test_no_token_right_or_wrong_is_in_any_answer_or_line(route: Route) -> None:
    right, wrong = "right-" + "x" * 40, "wrong-" + "y" * 40

    async def story(door: Door) -> None:
        for token in (right, wrong):
            for body in (b"{}", b"{" + token.encode(), json.dumps({"token": 1}).encode()):
                answer = await door(route.method, path(route), body, authorization=f"Bearer {token}")
                shown = answer.text + str(answer.headers)
                assert right not in shown
                assert wrong not in shown
        assert right not in door.log.getvalue()
        assert wrong not in door.log.getvalue()
        assert route.open_to_all or "token:" in door.log.getvalue()

    run(story, tokens=(right,))


@by_operation(list(ROUTES))
def test_a_method_nobody_serves_is_refused_with_those_that_are(route: Route) -> None:
    async def story(door: Door) -> None:
        answer = await door("PATCH", path(route))
        assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert route.method in answer.headers["allow"]
        families = {other.family for other in ROUTES if other.path == route.path}
        family = route.family if len(families) == 1 else Family.WEFT
        assert set(answer.json()) - {"node_id"} == KEYS[family], "in the shape of its neighbours"

    run(story)


@pytest.mark.parametrize(
    ("target", "family"),
    [("/v2/nothing", Family.POOLS), ("/v2", Family.POOLS), ("/v2x", Family.WEFT), ("/nothing/v2", Family.WEFT)],
)
def test_a_path_nobody_serves_below_v2_is_refused_in_the_node_seed_s_shape(target: str, family: Family) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", target)
        assert (answer.status_code, answer.json()["code"]) == (404, "ROUTE_NOT_FOUND")
        assert set(answer.json()) - {"node_id"} == KEYS[family]

    run(story)


@pytest.mark.parametrize("wrong", ["/", "/nope", "/cluster/", "/nodes/a/b/c", "/regions/a/attachments"])
def test_a_path_nobody_serves_is_not_found(wrong: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", wrong)
        assert answer.json()["code"] in ("ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED")

    run(story)


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 129, "a~b"])
def test_a_request_id_nobody_could_repeat_is_refused(wrong: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/health", weft_request_id=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")

    run(story)


@pytest.mark.parametrize("name", ["a b", "a%2Fb", "%00", "x" * 300, "ü"])
def test_an_id_in_a_path_is_parsed_like_any_other(name: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
        for wrong in (f"/nodes/{name}/endpoint", f"/regions/{name}"):
            assert (await door("GET", wrong)).status_code in (404, 422)
            assert (await door("GET", wrong)).json()["code"] in ("INVALID_FIELD", "ROUTE_NOT_FOUND")

    run(story)


@pytest.mark.parametrize("query", ["wait_ms=-1", "wait_ms=30001", "wait_ms=soon", "patience=1"])
def test_a_query_is_checked_like_a_body(query: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", f"/regions/r?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")

    run(story)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**seed_node(0), "cpu_count": -1}, "cpu_count"),
        ({**seed_node(0), "memory_mb": 2**53}, "memory_mb"),
        ({**seed_node(0), "memory_mb": 10**30}, "memory_mb"),
        ({**seed_node(0), "memory_mb": 1.5}, "memory_mb"),
        ({**seed_node(0), "status": "asleep"}, "status"),
        ({**seed_node(0), "node_id": -1}, "node_id"),
        ({**seed_node(0), "node_id": 2**63}, "node_id"),
        ({**seed_node(0), "node_id": "a b"}, "node_id"),
        ({**seed_node(0), "node_id": None}, "node_id"),
        ({**seed_node(0), "hostname": "h" * 300}, "hostname"),
        ({**seed_node(0), "lend_bytes": -1}, "lend_bytes"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        answer = await door("POST", "/nodes", body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_FIELD")
        assert answer.json()["detail"].startswith(f"{field}:")
        nested = await door("POST", "/cluster", {"name": "c", "nodes": [seed_node(1), body]})
        assert f"nodes[...].{field}" in nested.json()["detail"] or f"nodes[1].{field}" in nested.json()["detail"]

    run(story)


def test_a_lone_surrogate_is_not_json() -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/cluster", b'{"name": "\\ud800"}')
        assert answer.status_code == 400

    run(story)


def test_head_is_answered_like_get() -> None:
    async def story(door: Door) -> None:
        assert (await door("HEAD", "/health")).status_code == 200

    run(story)


def test_the_document_describes_every_route_with_every_status() -> None:
    async def story(door: Door) -> None:
        document = await door.ok("GET", "/openapi.json")
        assert document == json.loads(json.dumps(describe(ROUTES, __version__)))
        for route in ROUTES:
            responses = document["paths"][route.path][route.method.lower()]["responses"]
            expected = {str(status_of_class(kind, route.family)) for kind in route.outcomes}
            assert set(responses) == {str(route.status), *expected}
        named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
        assert named <= set(document["components"]["schemas"])

    run(story)


def test_the_document_is_pinned(request: pytest.FixtureRequest) -> None:
    described = json.dumps(describe(ROUTES, "pinned"), indent=1, sort_keys=True) + "\n"
    if request.config.getoption("--rewrite"):
        GOLDEN.write_text(described)
    assert described == GOLDEN.read_text(), "run pytest with --rewrite, and argue for the difference"


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    async def story() -> None:
        async def silence() -> Any:
            await asyncio.Event().wait()

        with pytest.raises(TimedOut):
            await read_body(silence, 10, 1)

    asyncio.run(story())


def test_the_page_about_it_needs_nothing_from_elsewhere() -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/docs")
        assert answer.headers["content-type"].startswith("text/html")
        assert re.findall(r"(?:src|href)=\"?(\S+?)[\">]", answer.text) == ["/openapi.json"]
        assert "//" not in re.sub(r"</?\w+>", "", answer.text)

    run(story)


def test_an_error_without_a_row_takes_its_nearest_ancestor_s_status() -> None:
    class Newcomer(NodeNotFound):
        code = "NEWCOMER"

    assert status_of(Newcomer("who?")) == 404
    assert STATUS[WeftError] == 500


def test_the_envelopes_are_pinned() -> None:
    error = LenderSilent("a is silent", nodes=["a"])
    assert envelope(error, Family.CLUSTER) == {"detail": "a is silent", "code": "LENDER_SILENT"}
    assert envelope(error, Family.WEFT) == {
        "error": "a is silent",
        "code": "LENDER_SILENT",
        "fields": {"nodes": ["a"]},
        "temporary": True,
    }
    assert status_of(Unavailable("x")) == 503


def test_a_bug_is_told_without_its_details_and_logged_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(door: Door) -> None:
        def broken(_: object) -> None:
            raise RuntimeError("a secret detail")

        monkeypatch.setattr(door.coordinator._beats, "silence_ms", broken)
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
        answer = await door("GET", "/cluster", weft_request_id="find-me")
        assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
        assert "secret detail" not in answer.text
        assert "secret detail" in door.log.getvalue()
        assert "find-me" in door.log.getvalue()

    run(story)


@pytest.mark.parametrize(
    ("target", "body", "field", "sentence"),
    [
        ("/register", {"id": "a"}, "zone", "zone: this field is required"),
        ("/cluster", {"name": "c", "nodes": [{"node_id": 0}]}, "nodes[0].hostname", "this field is required"),
        ("/regions", {"name": "r", "size_bytes": 1, "colour": "blue"}, "colour", "colour: there is no such field here"),
        (
            "/register",
            {"id": "a b", "zone": "z", "addr": "h:1"},
            "id",
            "id: Expected 1 to 256 letters, digits, dots, dashes or underscores",
        ),
        (
            "/register",
            {"id": "a", "zone": "z", "addr": "h"},
            "addr",
            "addr: Expected host:port, with an IPv6 host in brackets",
        ),
    ],
)
def test_a_refusal_names_the_field_also_when_it_is_missing_or_nobody_knows_it_and_says_what_fits(
    target: str, body: dict[str, Any], field: str, sentence: str
) -> None:
    async def story(door: Door) -> None:
        answer = (await door("POST", target, body)).json()
        assert sentence in answer.get("error", answer.get("detail"))
        assert "fields" not in answer or answer["fields"]["field"] == field
        assert "fields" in answer or field in answer["detail"]

    run(story)


def test_every_pattern_of_the_table_has_words_so_that_no_refusal_shows_one() -> None:
    def patterns(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["pattern"]} if isinstance(part.get("pattern"), str) else set()
            return own.union(*(patterns(one) for one in part.values()))
        return set().union(*(patterns(one) for one in part)) if isinstance(part, list) else set()

    found = patterns(describe(ROUTES, "any"))
    assert len(found) > 5
    assert {pattern for pattern in found if words_for(repr(pattern)) is None} == set()
