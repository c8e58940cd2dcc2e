"""`Client` and `AsyncClient`: the route table as methods, against a script and against a coordinator."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

import weft
from tests.client.fakes import FakeClock, ScriptedHttp, answer
from tests.worlds import coordinator_door
from weft.api.routes import ROUTES
from weft.client import AsyncClient, Client
from weft.client.http import AsyncHttpxHttp
from weft.client.operations import arrange
from weft.client.ports import AsyncStreamed, Request, Streamed
from weft.client.watching import Watching
from weft.model.errors import (
    BadArgument,
    Disconnected,
    Failed,
    InvalidField,
    NoSuitableNode,
    PoolUnavailable,
    PositionCompacted,
    Unreachable,
    WorkerReset,
)


def client(http: ScriptedHttp, clock: FakeClock | None = None, **settings: Any) -> Client:
    return Client(http=http, clock=clock or FakeClock(), chance=random.Random(1), token="t", **settings)  # type: ignore[arg-type]


def pools_refusal(code: str, status: int) -> Any:
    return answer({"success": False, "message": "no", "node_id": "a", "code": code}, status)


def event(position: int, index: int = 0, kind: str = "NodeRemoved") -> bytes:
    data = {
        "position": position,
        "index": index,
        "last": True,
        "sequence": position,
        "at_ms": 1,
        "cause": "c",
        "kind": kind,
        "event": {"type": kind, "node_id": "a"},
    }
    return f"event: {kind}\nid: {position}.{index}\ndata: {json.dumps(data)}\n\n".encode()


@pytest.mark.parametrize("route", ROUTES, ids=[route.operation for route in ROUTES])
def test_every_operation_of_the_table_is_a_method_of_both(route: Any) -> None:
    for made in (client(ScriptedHttp()), AsyncClient("http://x")):
        assert callable(getattr(made, route.operation))
        assert route.operation in dir(made)


@pytest.mark.parametrize(
    ("operation", "values", "method_and_target", "body"),
    [
        ("place_key", {"hash": "a/b", "rf": 2}, "GET /placement/a%2Fb?rf=2", None),
        ("show_cluster", {"at_least": 7}, "GET /cluster?at_least=7", None),
        ("schedule", {"cpu_req": 0.5, "explain": True}, "POST /schedule?explain=1", {"cpu_req": 0.5}),
        ("remove_node", {"node_id": 3}, "DELETE /nodes/3", None),
        ("place_job", {"placement": {"node_id": "a"}}, "POST /v2/placements", {"placement": {"node_id": "a"}}),
        ("watch_events", {"since": 4, "follow": False}, "GET /events?from=4&follow=0", None),
    ],
)
def test_values_go_where_the_route_has_them(
    operation: str, values: dict[str, Any], method_and_target: str, body: dict[str, Any] | None
) -> None:
    http = ScriptedHttp(answer([]) if operation == "place_key" else Failed("enough"))
    made = client(http)
    if operation == "place_key":
        assert made.call(operation, **values) == []
    else:
        with pytest.raises(Failed, match="enough"):
            made.call(operation, **values)
    [request] = http.requests
    assert f"{request.method} {request.target}" == method_and_target
    sent = json.loads(request.body) if request.body else None
    assert sent is None if body is None else body.items() <= sent.items()
    assert request.headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("operation", "values", "told"),
    [
        ("place_key", {}, "needs hash"),
        ("place_key", {"hash": "k", "colour": 1}, "takes no colour"),
        ("schedule", {"at_least": 1}, "takes no at_least"),
        ("schedule", {"cpu_req": "much"}, "cpu_req"),
        ("nothing", {}, "no operation"),
    ],
)
def test_what_a_route_does_not_take_is_an_error_before_anything_is_sent(
    operation: str, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadArgument, match=told):
        client(ScriptedHttp()).call(operation, **values)


def test_an_attribute_that_is_no_operation_is_missing() -> None:
    with pytest.raises(AttributeError, match="no operation 'nothing'"):
        client(ScriptedHttp()).nothing()


def test_a_body_may_be_passed_whole() -> None:
    call = arrange("register_node", {}, body={"node_id": 1, "hostname": "h"})
    assert call.body == {"node_id": 1, "hostname": "h"}


def test_a_reply_that_says_nothing_is_none() -> None:
    http = ScriptedHttp(answer(None, 204))
    http.answers[0] = http.answers[0].__class__(status=204, headers={}, body=b"")  # type: ignore[call-arg, union-attr]
    assert client(http).end_job(placement_id="p" + "0" * 16) is None


def test_what_is_temporary_is_tried_again_and_what_may_have_arrived_keeps_its_id() -> None:
    placed = answer({"placement_id": "p1", "node_id": "a", "pool_id": "p", "replica_id": "r", "node_address": None})
    http = ScriptedHttp(Disconnected("ended"), Unreachable("nobody"), pools_refusal("POOL_UNAVAILABLE", 503), placed)
    assert client(http).place_job(model="m").placement_id == "p1"
    first, second, third, fourth = (request.headers["weft-request-id"] for request in http.requests)
    assert first == second == third, "the answer was lost, and who is not reached says nothing of what became of it"
    assert fourth != third, "that nothing was free is an answer: what is asked after it is asked anew"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("POOL_UNAVAILABLE", 503, PoolUnavailable),
        ("WORKER_RESET", 410, WorkerReset),
        ("INVALID_PARAMS", 400, InvalidField),
        ("NO_SUITABLE_NODE", 404, NoSuitableNode),
    ],
)
def test_a_refusal_is_raised_as_its_class_whatever_family_it_came_from(
    code: str, status: int, error: type[Exception]
) -> None:
    http = ScriptedHttp(*[pools_refusal(code, status)] * 50)
    with pytest.raises(error) as raised:
        client(http, patience_s=1.0).place_job()
    assert raised.value.node_id == "a"  # type: ignore[attr-defined]


def test_patience_ends() -> None:
    clock = FakeClock()
    with pytest.raises(Unreachable):
        client(ScriptedHttp(*[Unreachable("nobody")] * 99), clock, patience_s=3.0).show_health()
    assert clock.at_s <= 1003


class StreamingHttp(ScriptedHttp):
    """Streams from a script: each a list of parts, an error among them thrown where it stands."""

    def __init__(self, *streams: tuple[int, list[bytes | Exception]]) -> None:
        super().__init__()
        self.streams = list(streams)

    @contextmanager
    def stream(self, request: Request, quiet_s: float) -> Iterator[Streamed]:
        self.requests.append(request)
        status, parts = self.streams.pop(0)
        yield Streamed(status=status, headers={}, parts=_told(parts))


def _told(parts: list[bytes | Exception]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


class AsyncStreamingHttp(StreamingHttp):
    @asynccontextmanager
    async def stream(self, request: Request, quiet_s: float) -> AsyncIterator[AsyncStreamed]:  # type: ignore[override]
        self.requests.append(request)
        status, parts = self.streams.pop(0)

        async def told() -> AsyncIterator[bytes]:
            for part in _told(parts):
                yield part

        yield AsyncStreamed(status=status, headers={}, parts=told())


class AwaitedClock(FakeClock):
    async def sleep(self, duration_s: float) -> None:  # type: ignore[override]
        super().sleep(duration_s)


BROKEN: tuple[tuple[int, list[bytes | Exception]], ...] = (
    (200, [event(1), event(2, 0)[:30], Disconnected("ended")]),
    (200, [b": still here\n\n", event(2, 0) + event(2, 1)]),
    (503, [json.dumps({"error": "busy", "code": "UNAVAILABLE", "fields": {}}).encode()]),
    (200, [event(3)[:10], event(3)[10:], event(4)]),
)


def test_a_stream_that_breaks_goes_on_after_the_event_that_was_seen_last() -> None:
    http = StreamingHttp(*BROKEN)
    seen = []
    for one in client(http).events():
        seen.append(f"{one.position}.{one.index}")
        if one.position == 4:
            break
    assert seen == ["1.0", "2.0", "2.1", "3.0", "4.0"]
    assert [request.target.split("?")[1] for request in http.requests] == [
        "from=0&follow=1",
        "from=1.0&follow=1",
        "from=2.1&follow=1",
        "from=2.1&follow=1",
    ]


def test_the_awaited_stream_is_the_same() -> None:
    async def story() -> list[str]:
        http = AsyncStreamingHttp(*BROKEN)
        made = AsyncClient(http=http, clock=AwaitedClock(), chance=random.Random(1))  # type: ignore[arg-type]
        seen = []
        async for one in made.events():
            seen.append(f"{one.position}.{one.index}")
            if one.position == 4:
                break
        return seen

    assert asyncio.run(story()) == ["1.0", "2.0", "2.1", "3.0", "4.0"]


def test_a_stream_that_does_not_stay_ends_with_the_log() -> None:
    http = StreamingHttp((200, [event(1), event(2)]))
    assert [one.position for one in client(http).events(follow=False)] == [1, 2]


def test_a_log_that_was_compacted_is_an_error_with_the_oldest_position() -> None:
    gone = {"error": "gone", "code": "POSITION_COMPACTED", "fields": {"from": 1, "oldest": 9}}
    with pytest.raises(PositionCompacted) as raised:
        list(client(StreamingHttp((410, [json.dumps(gone).encode()]))).events(since=1))
    assert raised.value.oldest == 9


def test_what_is_no_event_is_told() -> None:
    watching = Watching()
    with pytest.raises(Failed, match="not one this version"):
        list(watching.feed(b"id: 1.0\ndata: {}\n\n"))


def test_the_names_are_the_package_s() -> None:
    assert weft.Client is Client
    assert weft.AsyncClient is AsyncClient


def test_an_awaited_client_speaks_with_a_coordinator() -> None:
    async def story() -> None:
        async with coordinator_door() as door:
            transport = httpx.ASGITransport(app=door.coordinator.app)
            async with AsyncClient(http=AsyncHttpxHttp("http://coordinator", transport=transport)) as made:
                for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "c")):
                    await made.register_storage_node(id=name, zone=zone, addr="10.0.0.1:50051", capacity_gb=1)
                await made.take_node_stats(node_id="n2", cpu_free=0.5, ram_free_mb=100.0)
                assert (await made.schedule(cpu_req=0.2)).node_id == "n2"
                assert sorted(await made.place_key(hash="k", rf=3)) == ["n1", "n2", "n3"]
                with pytest.raises(NoSuitableNode):
                    await made.schedule(cpu_req=0.9)
                kinds = [one.kind async for one in made.events(follow=False)]
                assert kinds.count("NodeRegistered") == 3

    asyncio.run(story())
