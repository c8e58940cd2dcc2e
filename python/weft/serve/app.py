"""Route table → ASGI app: find the route, decode, ask the handler, encode; map errors; count.

One path for every route, with no hot copy beside a cold one. It costs little because nothing is built that a control
message does not need: no request object, no middleware, no regular expressions, one JSON encoder for all.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final

import msgspec
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from weft.api.errors import Family, envelope, status_of
from weft.api.openapi import describe
from weft.api.routes import Route
from weft.model.errors import (
    Internal,
    InvalidField,
    MethodNotAllowed,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    WeftError,
)
from weft.model.ids import RequestId, parse_request_id
from weft.model.policy import REQUEST_MS_MAX, WATCH_SEND_MS_MAX
from weft.serve.auth import Gate, fingerprint
from weft.serve.call import (
    Call,
    Content,
    Handler,
    Stream,
    decode_body,
    decode_query,
    read_body,
    split_query,
    take_at_least,
)
from weft.serve.docs import PAGE
from weft.serve.routing import Bound, RouteTable
from weft.telemetry import Log, Metrics

JSON: Final = b"application/json"
HTML: Final = b"text/html; charset=utf-8"
RETRY_AFTER_S: Final = b"1"
"""What a 503 asks for: longer than any pause that passes by itself, shorter than anybody's patience."""

CORRELATION_BYTES_MAX: Final = 128
"""A correlation id is a UUID or what a tracing system makes; longer ones are not repeated into the log."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What an app is made of. `position` is the last merged place in the log, sent with every answer.

    `reach` waits until the log has come to a position, and raises when it does not in time; a process without a log
    has none. Every answer carries a correlation id, the caller's or one from `mint_correlation_id`. `closed` makes what
    answers a `cloud_only` route outside the cloud profile, before anything of the request but its token was looked at.
    """

    routes: tuple[Route, ...]
    handlers: Mapping[str, Handler]
    gate: Gate
    position: Callable[[], int]
    mint_request_id: Callable[[], RequestId]
    mint_correlation_id: Callable[[], str]
    log: Log
    metrics: Metrics
    version: str
    reach: Callable[[int], Awaitable[None]] | None = None
    closed: Callable[[Route], Handler] | None = None


def build_app(service: Service, lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None) -> ASGIApp:
    """The app. Every route has a handler of its operation's name, and every handler a route: else it is a bug."""
    operations = {route.operation for route in service.routes}
    assert operations == set(service.handlers), f"unanswered or unrouted: {operations ^ set(service.handlers)}"
    bound = [
        Bound(route, service.closed(route), is_closed=True)
        if service.closed is not None and route.cloud_only
        else Bound(route, service.handlers[route.operation])
        for route in service.routes
    ]
    bound += _descriptions(service)
    return _Door(service, bound, Router(lifespan=lifespan))


class _Door:
    """The whole table as one ASGI app. What is not HTTP is Starlette's: a lifespan, and websockets, which it closes."""

    def __init__(self, service: Service, bound: Iterable[Bound], rest: ASGIApp) -> None:
        self._rest = rest
        self._table = RouteTable(bound)
        self._gate = service.gate
        self._position = service.position
        self._mint_request_id = service.mint_request_id
        self._mint_correlation_id = service.mint_correlation_id
        self._reach = service.reach
        self._log = service.log
        self._encode = msgspec.json.Encoder().encode
        self._requests = service.metrics.counter(
            "weft_http_requests_total", "Requests answered, by operation and status.", ("operation", "status")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what no route answers is answered here too, in our own shape."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        family, operation = Family.WEFT, "unrouted"
        extra: tuple[tuple[bytes, bytes], ...] = ()
        request_id: RequestId | None = None
        given, authorization, correlation, media = _own_headers(scope)
        correlation_id = _parse_correlation_id(correlation) or self._mint_correlation_id()
        try:
            bound, parameters = self._table.find(scope["method"], scope["path"], scope.get("raw_path") or b"")
            route = bound.route
            family, operation = route.family, route.operation
            request_id = parse_request_id(given.decode("latin-1")) if given is not None else self._mint_request_id()
            identity = ""
            if not route.open_to_all:
                client = scope.get("client")
                identity = self._gate.check(authorization, operation, client[0] if client else None)
            call = Call(request_id, given is not None, parameters, scope["headers"], receive, correlation_id, identity)
            if not bound.is_closed and (route.query is not None or scope["query_string"]):
                fields = split_query(scope["query_string"])
                if (
                    self._reach is not None
                    and route.method == "GET"
                    and (at_least := take_at_least(fields)) is not None
                ):
                    await self._reach(at_least)
                if route.query is not None:
                    call.query = decode_query(route.query, fields)
            if bound.decoder is not None:
                if family is Family.POOLS and media is not None:
                    _check_media(media)
                raw = await read_body(receive, route.body_bytes_max, REQUEST_MS_MAX)
                call.body = decode_body(bound.decoder, raw or bound.empty_body)
            reply = await bound.handler(call)
            status, media_type = route.status, JSON
            if type(reply) is Content:
                body, media_type = reply.body, reply.media_type
            elif reply is None:
                body = b""
            elif type(reply) is Stream:
                self._requests.add(1, operation, str(status))
                await self._pour(reply, request_id, correlation_id, call, send)
                return
            else:
                body = self._encode(reply)
        except WeftError as error:
            request_id = request_id or self._own_id(given)
            if operation == "unrouted":
                family = self._table.family_near(scope["path"])
            status, media_type, extra = status_of(error, family), JSON, _error_headers(error)
            if isinstance(error, Unauthorized):
                self._log.warning(
                    "a request was not let in",
                    code=error.code,
                    token=fingerprint(authorization),
                    request_id=request_id,
                    correlation_id=correlation_id,
                    operation=operation,
                )
            # What is unavailable says so where it becomes so, once, and not once for every request it meets.
            if status >= 500 and not isinstance(error, Unavailable):
                self._log.warning(
                    error.message,
                    code=error.code,
                    request_id=request_id,
                    correlation_id=correlation_id,
                    operation=operation,
                )
            body = self._encode(envelope(error, family))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            request_id = request_id or self._mint_request_id()
            self._log.error(
                "a request met a bug",
                error,
                request_id=request_id,
                correlation_id=correlation_id,
                operation=operation,
            )
            hidden = Internal("the coordinator met a bug; its log has the request id", request_id=request_id)
            status, media_type = status_of(hidden), JSON
            body = self._encode(envelope(hidden, family))
        self._requests.add(1, operation, str(status))
        headers = [
            (b"content-type", media_type),
            (b"content-length", str(len(body)).encode()),
            (b"weft-position", str(self._position()).encode()),
            (b"weft-request-id", request_id.encode()),
            (b"x-correlation-id", correlation_id.encode()),
            *extra,
        ]
        if not body and status == 204:
            # A reply that says nothing has no type and no length; some clients take a length for a body to come.
            del headers[:2]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _own_id(self, given: bytes | None) -> RequestId:
        """What a request is called that was refused before anybody asked: as it says, where it can be called so."""
        with contextlib.suppress(InvalidField):
            return parse_request_id((given or b"").decode("latin-1"))
        return self._mint_request_id()

    async def _pour(self, stream: Stream, request_id: RequestId, correlation_id: str, call: Call, send: Send) -> None:
        """Send a stream's parts until they end or the caller leaves. A caller that takes nothing is let go of."""
        headers = [
            (b"content-type", stream.media_type),
            (b"cache-control", b"no-store"),
            (b"weft-position", str(self._position()).encode()),
            (b"weft-request-id", request_id.encode()),
            (b"x-correlation-id", correlation_id.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pouring = asyncio.ensure_future(_pour_all(stream, send))
        leaving = asyncio.ensure_future(call.caller_left())
        try:
            await asyncio.wait({pouring, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Both have ended when this returns, whichever came first and however it came.
            for task in (pouring, leaving):
                task.cancel()
            outcomes = await asyncio.gather(pouring, leaving, return_exceptions=True)
        error = outcomes[0]
        if isinstance(error, Exception) and not isinstance(error, WeftError | TimeoutError):
            self._log.error("a stream met a bug", error, request_id=request_id)


async def _pour_all(stream: Stream, send: Send) -> None:
    async with aclosing(stream.parts) as parts:
        async for part in parts:
            async with asyncio.timeout(WATCH_SEND_MS_MAX / 1_000):
                await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _own_headers(scope: Scope) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None]:
    """What the caller calls its request, shows to be let in, names as the whole of it, and says the body is."""
    request_id = authorization = correlation = media = None
    for name, value in scope["headers"]:
        if name == b"weft-request-id":
            request_id = value
        elif name == b"authorization":
            authorization = value
        elif name == b"x-correlation-id":
            correlation = value
        elif name == b"content-type":
            media = value
    return request_id, authorization, correlation, media


def _parse_correlation_id(given: bytes | None) -> str | None:
    """The caller's correlation id, where it can be echoed and logged as it is."""
    if given is None or not 1 <= len(given) <= CORRELATION_BYTES_MAX:
        return None
    return given.decode() if all(0x21 <= letter <= 0x7E for letter in given) else None


def _check_media(media: bytes) -> None:
    """Raise `UnsupportedMedia` for a body that says it is no JSON."""
    kind = media.partition(b";")[0].strip().lower()
    if kind != JSON and not kind.endswith(b"+json"):
        named = kind.decode("latin-1")
        raise UnsupportedMedia(f"a body is application/json here, not {named}", media_type=named)


def _error_headers(error: WeftError) -> tuple[tuple[bytes, bytes], ...]:
    status = status_of(error)
    if status == 401:
        return ((b"www-authenticate", b"Bearer"),)
    if status == 503 and error.temporary:
        return ((b"retry-after", RETRY_AFTER_S),)
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", ", ".join(error.facts["allowed"]).encode()),)
    return ()


def _descriptions(service: Service) -> list[Bound]:
    """The two routes that describe the others."""
    document = Content(msgspec.json.encode(describe(service.routes, service.version)))
    page = Content(PAGE.encode(), HTML)

    async def show_document(_: Call) -> Content:
        return document

    async def show_page(_: Call) -> Content:
        return page

    return [
        Bound(_description("show_openapi", "/openapi.json"), show_document),
        Bound(_description("show_docs", "/docs"), show_page),
    ]


def _description(operation: str, path: str) -> Route:
    return Route(operation=operation, method="GET", path=path, summary="", family=Family.WEFT)
