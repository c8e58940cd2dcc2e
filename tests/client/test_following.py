"""A coordinator that follows names the one that writes; both clients go there themselves, within their deadline."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from tests.client.fakes import FakeClock, ScriptedHttp, answer, refusal
from tests.worlds import coordinator_door
from weft.client import AsyncClient, Client
from weft.client.http import AsyncHttpxHttp, HttpxHttp
from weft.ledger import MemoryJournal
from weft.model.errors import Disconnected, NotTheWriter, Unavailable, Unreachable

WRITER = "http://10.0.0.2:8080"


def follower(writer: str = WRITER, family: str = "cluster") -> Any:
    fields = {"writer": writer}
    if family == "cluster":
        return answer({"detail": "this one follows", "code": "NOT_THE_WRITER", "fields": fields}, 503)
    return refusal("NOT_THE_WRITER", "this one follows", 503, **fields)


def client(http: ScriptedHttp, clock: FakeClock, **settings: Any) -> Client:
    return Client(http=http, clock=clock, chance=random.Random(1), token="t", **settings)  # type: ignore[arg-type]


DELETED = answer({"node_id": 3, "status": "removed", "remaining_nodes": 0})


@pytest.mark.parametrize("family", ["cluster", "weft"])
def test_the_writer_that_is_named_is_asked_at_once_and_under_the_same_id(family: str) -> None:
    http, clock = ScriptedHttp(follower(family=family), DELETED), FakeClock()
    assert client(http, clock).remove_node(node_id=3).remaining_nodes == 0
    assert [request.at for request in http.requests] == [None, WRITER]
    assert len({request.headers["weft-request-id"] for request in http.requests}) == 1
    assert http.requests[1].headers["authorization"] == "Bearer t"
    assert clock.slept_s == []


def test_a_writer_that_is_gone_is_not_asked_again_before_the_first_one_was() -> None:
    http = ScriptedHttp(follower(), Unreachable("nobody"), follower("http://10.0.0.3:8080"), DELETED)
    client(http, FakeClock()).remove_node(node_id=3)
    assert [request.at for request in http.requests] == [None, WRITER, None, "http://10.0.0.3:8080"]


def test_followers_that_name_each_other_are_asked_in_turn_and_not_without_a_pause() -> None:
    http, clock = ScriptedHttp(*[follower(WRITER), follower("http://10.0.0.1:8080")] * 50), FakeClock()
    with pytest.raises(NotTheWriter):
        client(http, clock, patience_s=5.0).remove_node(node_id=3)
    assert len(http.requests) < 40
    assert 3.0 < sum(clock.slept_s) <= 5.0


def test_whether_a_coordinator_is_ready_is_asked_of_no_other() -> None:
    http = ScriptedHttp(*[follower(family="weft")] * 50)
    with pytest.raises(NotTheWriter):
        client(http, FakeClock(), patience_s=1.0).show_ready()
    assert {request.at for request in http.requests} == {None}


def test_where_nobody_writes_the_first_one_is_asked_again_until_time_is_up() -> None:
    http, clock = ScriptedHttp(*[follower("")] * 50), FakeClock()
    with pytest.raises(NotTheWriter):
        client(http, clock, patience_s=5.0).remove_node(node_id=3)
    assert {request.at for request in http.requests} == {None}


@pytest.mark.parametrize(
    "strange",
    [
        "file:///etc/passwd",
        "ftp://10.0.0.2",
        "10.0.0.2",
        "http://",
        "http://[",
        "http://10.0.0.2:99999",
        "http://10.0.0.2:port",
        "http://me@10.0.0.2",
        "http://10.0.0.2/elsewhere?path=",
        "http://10.0.0.2#",
        "http://10.0.0.2\r\nx: y",
        "http://10.0.0.2 ",
    ],
)
def test_what_is_no_address_of_a_coordinator_is_not_followed(strange: str) -> None:
    http = ScriptedHttp(follower(strange), DELETED)
    client(http, FakeClock()).remove_node(node_id=3)
    assert [request.at for request in http.requests] == [None, None]


@pytest.mark.parametrize(("first", "second"), [("https://first", "https://first"), ("http://first", WRITER)])
def test_a_token_that_was_shown_over_tls_is_never_shown_in_the_clear(first: str, second: str) -> None:
    asked: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.scheme}://{request.url.netloc.decode()}")
        body = DELETED if len(asked) > 1 else follower()
        return httpx.Response(body.status, content=body.body)

    made = client(HttpxHttp(first, transport=httpx.MockTransport(reply)), FakeClock())  # type: ignore[arg-type]
    made.remove_node(node_id=3)
    made.close()
    assert asked == [first, second]


def test_a_try_that_may_have_been_carried_out_keeps_its_id_when_one_that_follows_is_asked_after_it() -> None:
    for others in ([follower()], [follower(""), follower("")], [follower(), follower("http://10.0.0.1:8080")]):
        http = ScriptedHttp(Disconnected("cut"), *others, DELETED)
        client(http, FakeClock()).remove_node(node_id=3)
        assert len({request.headers["weft-request-id"] for request in http.requests}) == 1


def test_two_coordinators_and_a_client_that_knows_only_the_one_that_follows() -> None:
    class Shared(MemoryJournal):
        async def close(self) -> None: ...

        async def wait(self, after: Any, ms_max: int) -> None:
            await asyncio.sleep(0.005)

    class Both(httpx.AsyncBaseTransport):
        """A network on which two coordinators are reached by their names."""

        def __init__(self, **apps: Any) -> None:
            self._ways = {name: httpx.ASGITransport(app=app) for name, app in apps.items()}

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self._ways[request.url.host].handle_async_request(request)

    async def story() -> None:
        journal = Shared()
        async with (
            coordinator_door(journal, shared=journal, address="http://one") as one,
            coordinator_door(journal, shared=journal, address="http://other") as other,
        ):
            network = Both(one=one.coordinator.app, other=other.coordinator.app)
            made = AsyncClient(http=AsyncHttpxHttp("http://other", transport=network))
            assert (await made.found_cluster(name="c")).cluster_name == "c"
            assert (
                await made.register_storage_node(id="n1", zone="a", addr="10.0.0.1:50051", capacity_gb=1)
            ) is not None
            position = one.coordinator.writer.state.marks.position
            assert (await made.show_cluster(at_least=position)).nodes == 1
            one.coordinator.writer.close()
            with pytest.raises(Unavailable):
                await made.call("remove_node", node_id="n1", patience_s=0.2)
            await made.close()

    asyncio.run(story())
