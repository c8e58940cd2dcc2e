"""What one layer does and others do not, and the way over the network they share."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.ledger.stages import SystemClock, SystemRandom
from weft.ledger.layer import Cursor, LayerHealth
from weft.ledger.layers import EmergencyLayer, HttpxHttp, MemoryLayer, RetryingLayer
from weft.ledger.layers.ports import Answer
from weft.model.errors import BlobDamaged, Disconnected, LayerFailed, LayerRefused, LayerUnknown, TimedOut, Unreachable
from weft.testing.faults import Fault

BLOB = b"a batch"


class Steps:
    """A clock that goes on by so much each time it is read."""

    def __init__(self, step_ms: int) -> None:
        self._now_ms, self._step_ms = 0, step_ms

    def monotonic_ms(self) -> int:
        self._now_ms += self._step_ms
        return self._now_ms


@pytest.mark.parametrize(("took_ms", "health"), [(500, LayerHealth.HEALTHY), (501, LayerHealth.DEGRADED)])
def test_the_mock_calls_itself_degraded_when_it_is_slow(took_ms: int, health: LayerHealth) -> None:
    layer = MemoryLayer(Steps(took_ms), SystemRandom())
    assert asyncio.run(layer.probe()) is health


def test_the_mock_fails_as_often_as_it_is_told_to() -> None:
    class Dice:
        def __init__(self) -> None:
            self._number = 0

        def draw(self, size_bytes: int) -> bytes:
            self._number += 1
            return (self._number * 2**32 // 11 % 2**32).to_bytes(size_bytes)

    async def story() -> None:
        layer = MemoryLayer(SystemClock(), Dice(), failure_chance=0.3, unknown_chance=0.0)
        outcomes = await asyncio.gather(*(layer.put(b"%d" % number) for number in range(10)), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, LayerFailed)]
        assert len(failures) == 3
        scan = await layer.scan(Cursor(""), 100)
        assert len(scan.kept) == 7, "a failure before is nothing kept"

    asyncio.run(story())


def test_the_mock_fails_once_where_a_test_says() -> None:
    async def story() -> None:
        layer = MemoryLayer(SystemClock(), SystemRandom())
        layer.fails_before = Fault.after(1)
        await layer.put(b"first")
        with pytest.raises(LayerFailed):
            await layer.put(b"second")
        await layer.put(b"second")

    asyncio.run(story())


class Canned:
    """A server that says one thing, or fails in one way."""

    def __init__(self, outcome: Answer | Exception) -> None:
        self.outcome = outcome

    async def send(self, method: str, url: str, **_: object) -> Answer:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def close(self) -> None: ...


def said(status: int, body: bytes = b"{}") -> Answer:
    return Answer(status, {}, body)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Unreachable("nobody"), LayerFailed),
        (Disconnected("cut"), LayerUnknown),
        (TimedOut("slow"), LayerUnknown),
        (said(200, b'{"commitment": "' + b"0" * 64 + b'", "height": 1}'), LayerUnknown),
        (said(200, b"not JSON"), LayerUnknown),
        (said(500), LayerUnknown),
        (said(504), LayerUnknown),
        (said(503, b'{"error": "the disk is full"}'), LayerFailed),
        (said(429), LayerFailed),
        (said(401), LayerRefused),
        (said(413), LayerRefused),
        (said(422), LayerRefused),
    ],
)
def test_what_a_failed_put_leaves_open_follows_from_how_it_failed(
    outcome: Answer | Exception, kind: type[LayerFailed]
) -> None:
    layer = EmergencyLayer(Canned(outcome), SystemClock(), "http://server", None)
    with pytest.raises(LayerFailed) as failure:
        asyncio.run(layer.put(BLOB))
    assert type(failure.value) is kind


def test_bytes_that_are_not_the_blob_are_not_believed() -> None:
    layer = EmergencyLayer(Canned(said(200, b"something else")), SystemClock(), "http://server", None)
    with pytest.raises(BlobDamaged):
        asyncio.run(layer.get((asyncio.run(MemoryLayer(SystemClock(), SystemRandom()).put(BLOB))).commitment))


@pytest.mark.parametrize(
    "page",
    [
        b'{"blobs": [], "next": 5, "is_end": false}',
        b'{"blobs": [], "next": 0, "is_end": false}',
        b'{"blobs": [{"commitment": "' + b"0" * 64 + b'", "height": 1, "size_bytes": 1}], "next": 9, "is_end": true}',
        b'{"blobs": [{"commitment": "nonsense", "height": 1, "size_bytes": 1}], "next": 1, "is_end": true}',
        b'{"blobs": "many"}',
    ],
)
def test_a_list_that_skips_or_makes_no_sense_is_no_list(page: bytes) -> None:
    layer = EmergencyLayer(Canned(said(200, page)), SystemClock(), "http://server", None)
    with pytest.raises(LayerFailed):
        asyncio.run(layer.scan(Cursor(""), 10))


class Failing(MemoryLayer):
    """Fails in one way, and counts how often it was asked."""

    def __init__(self, error: LayerFailed) -> None:
        super().__init__(SystemClock(), SystemRandom())
        self.error, self.asked = error, 0

    async def put(self, blob: bytes) -> object:  # type: ignore[override]
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked"),
    [(LayerFailed("nothing happened"), 4), (LayerUnknown("perhaps"), 1), (LayerRefused("no"), 1)],
)
def test_only_what_left_nothing_behind_is_tried_again(error: LayerFailed, asked: int) -> None:
    failing = Failing(error)
    layer = RetryingLayer(failing, SystemClock(), retry_count=3, retry_delay_ms=1, timeout_ms=5_000)
    with pytest.raises(type(error)):
        asyncio.run(layer.put(BLOB))
    assert failing.asked == asked


def test_nothing_is_tried_again_when_its_time_is_up() -> None:
    failing = Failing(LayerFailed("nothing happened"))
    layer = RetryingLayer(failing, SystemClock(), retry_count=3, retry_delay_ms=2_000, timeout_ms=1_000)
    with pytest.raises(LayerFailed):
        asyncio.run(layer.put(BLOB))
    assert failing.asked == 1


def ask(handler: Callable[[httpx.Request], Awaitable[httpx.Response]], **how: int) -> Answer:
    async def tell() -> Answer:
        http = HttpxHttp(transport=httpx.MockTransport(handler))
        limits = {"timeout_ms": 200, "answer_bytes_max": 10, **how}
        try:
            return await http.send("GET", "http://server/", headers={}, body=b"", **limits)
        finally:
            await http.close()

    return asyncio.run(tell())


def test_an_answer_that_is_too_long_is_cut_off() -> None:
    async def long(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * 11)

    with pytest.raises(Disconnected, match="more than 10 bytes"):
        ask(long)
    assert ask(long, answer_bytes_max=11).body == b"x" * 11


def test_an_answer_that_does_not_come_in_time_is_given_up() -> None:
    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(5)
        return httpx.Response(200)

    with pytest.raises(TimedOut):
        ask(slow, timeout_ms=20)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("no"), Unreachable),
        (httpx.ConnectTimeout("no"), Unreachable),
        (httpx.PoolTimeout("no"), Unreachable),
        (httpx.ReadTimeout("no"), TimedOut),
        (httpx.WriteError("no"), Disconnected),
        (httpx.RemoteProtocolError("no"), Disconnected),
    ],
)
def test_whether_a_request_may_have_arrived_is_in_the_class_of_its_error(
    error: httpx.HTTPError, kind: type[Exception]
) -> None:
    async def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(kind):
        ask(fail)
