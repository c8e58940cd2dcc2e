"""Route table → ASGI app: find the route, decode, ask the handler, encode; map errors; count.

One path for every route, with no hot copy beside a cold one. It costs little because nothing is built that a control
message does not need: no request object, no middleware, no regular expressions, one JSON encoder for all.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec
from starlette.routing import BaseRoute, Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from weft.api.errors import Family, envelope, status_of
from weft.api.openapi import describe
from weft.api.routes import Route
from weft.model.errors import Internal, MethodNotAllowed, Unavailable, WeftError
from weft.model.ids import RequestId, parse_request_id
from weft.model.policy import BODY_BYTES_MAX, REQUEST_MS_MAX
from weft.serve.auth import Gate
from weft.serve.call import Call, Content, Handler, decode_body, decode_query, read_body
from weft.serve.docs import PAGE
from weft.serve.routing import Bound, RouteTable
from weft.telemetry import Log, Metrics

JSON: Final = b"application/json"
HTML: Final = b"text/html; charset=utf-8"
RETRY_AFTER_S: Final = b"1"
"""What a 503 asks for: longer than any pause that passes by itself, shorter than anybody's patience."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What an app is made of. `position` is the last merged place in the log, sent with every answer."""

    routes: tuple[Route, ...]
    handlers: Mapping[str, Handler]
    gate: Gate
    position: Callable[[], int]
    mint_request_id: Callable[[], RequestId]
    log: Log
    metrics: Metrics
    version: str


def build_app(service: Service, lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None) -> ASGIApp:
    """The app. Every route has a handler of its operation's name, and every handler a route: else it is a bug."""
    operations = {route.operation for route in service.routes}
    assert operations == set(service.handlers), f"unanswered or unrouted: {operations ^ set(service.handlers)}"
    bound = [Bound(route, service.handlers[route.operation]) for route in service.routes]
    bound += _descriptions(service)
    return Router(routes=[_Door(service, bound)], redirect_slashes=False, lifespan=lifespan)


class _Door(BaseRoute):
    """The whole table as one Starlette route."""

    def __init__(self, service: Service, bound: Iterable[Bound]) -> None:
        self._table = RouteTable(bound)
        self._gate = service.gate
        self._position = service.position
        self._mint_request_id = service.mint_request_id
        self._log = service.log
        self._encode = msgspec.json.Encoder().encode
        self._requests = service.metrics.counter(
            "weft_http_requests_total", "Requests answered, by operation and status.", ("operation", "status")
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Everything that is HTTP: what no route answers is answered here too, in our own shape."""
        return (Match.FULL, {}) if scope["type"] == "http" else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        family, operation = Family.WEFT, "unrouted"
        extra: tuple[tuple[bytes, bytes], ...] = ()
        request_id: RequestId | None = None
        try:
            given, authorization = _own_headers(scope)
            request_id = parse_request_id(given.decode("latin-1")) if given is not None else self._mint_request_id()
            bound, parameters = self._table.find(scope["method"], scope["path"])
            route = bound.route
            family, operation = route.family, route.operation
            if not route.open_to_all:
                self._gate.check(authorization)
            call = Call(request_id, given is not None, parameters, scope["headers"], receive)
            if route.query is not None:
                call.query = decode_query(route.query, scope["query_string"])
            if bound.decoder is not None:
                raw = await read_body(receive, BODY_BYTES_MAX, REQUEST_MS_MAX)
                call.body = decode_body(bound.decoder, raw or bound.empty_body)
            reply = await bound.handler(call)
            status, media_type = route.status, JSON
            if type(reply) is Content:
                body, media_type = reply.body, reply.media_type
            else:
                body = self._encode(reply)
        except WeftError as error:
            request_id = request_id or self._mint_request_id()
            status, media_type, extra = status_of(error), JSON, _error_headers(error)
            # What is unavailable says so where it becomes so, once, and not once for every request it meets.
            if status >= 500 and not isinstance(error, Unavailable):
                self._log.warning(error.message, code=error.code, request_id=request_id, operation=operation)
            body = self._encode(envelope(error, family))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            request_id = request_id or self._mint_request_id()
            self._log.error("a request met a bug", error, request_id=request_id, operation=operation)
            hidden = Internal("the coordinator met a bug; its log has the request id", request_id=request_id)
            status, media_type = status_of(hidden), JSON
            body = self._encode(envelope(hidden, family))
        self._requests.add(1, operation, str(status))
        headers = [
            (b"content-type", media_type),
            (b"content-length", str(len(body)).encode()),
            (b"weft-position", str(self._position()).encode()),
            (b"weft-request-id", request_id.encode()),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _own_headers(scope: Scope) -> tuple[bytes | None, bytes | None]:
    """The request id the caller gave, and what it says to be let in."""
    request_id = authorization = None
    for name, value in scope["headers"]:
        if name == b"weft-request-id":
            request_id = value
        elif name == b"authorization":
            authorization = value
    return request_id, authorization


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
