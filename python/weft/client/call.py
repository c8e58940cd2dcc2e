"""One call of one route: the request it becomes, the body it brings back, the error it was refused with.

A call carries a request id. The coordinator answers a repeated id with its first answer, so a request whose fate is not
known (the connection ended, the time passed, no layer holds it yet) is sent again under the same id and cannot happen
twice. What if the next try reaches nobody, or somebody who is too busy to look? That says nothing of the first one, so
the id stays until a coordinator has decided. A refusal that was decided and calls itself temporary is an answer: what
is asked after it is asked anew, under a new id.
"""

from collections.abc import Mapping
from types import NoneType
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from weft.api.errors import INVALID_PARAMS
from weft.api.routes import ROUTES, Route
from weft.client.flow import Flow, Mint, Pause, Send, now
from weft.client.ports import Request, Response
from weft.model.errors import (
    Disconnected,
    Failed,
    InvalidField,
    LayerFailed,
    NotAvailableYet,
    NotTheWriter,
    TimedOut,
    Unavailable,
    Unreachable,
    WeftError,
    from_code,
)
from weft.model.policy import REQUEST_MS_MAX

T = TypeVar("T")

# The first pause after something temporary; it doubles up to the longest.
_PAUSE_FIRST_S = 0.05
_PAUSE_LONGEST_S = 2.0
# What a request may take beyond the time the coordinator was asked to wait.
REQUEST_S = REQUEST_MS_MAX / 1000


_OF_THE_ONE_ASKED = frozenset({"show_ready"})
"""What is asked of one coordinator about itself; another one's answer would be about another one."""

_LOST = (Disconnected, TimedOut, NotAvailableYet)
"""The request may have been carried out, or was: the answer to the same id is the answer to it."""
_UNDECIDED = (*_LOST, Unreachable, Unavailable, LayerFailed)
"""Nobody looked at the request this time, so what became of it before is as open as it was."""

_ROUTES = {route.operation: route for route in ROUTES}


class Call(Struct, Generic[T], frozen=True, kw_only=True):
    """What to ask: an operation of the route table, the values of its path, and what goes with it.

    `wait_ms` is how long the coordinator was asked to wait before it answers.
    """

    operation: str
    reply: type[T]
    path: Mapping[str, str] = {}
    query: Mapping[str, str | int] = {}
    body: Any = None
    wait_ms: int = 0
    token: str | None = None

    @property
    def route(self) -> Route:
        """The route, from the table."""
        return _ROUTES[self.operation]


def perform(call: Call[T], deadline_s: float) -> Flow[T]:
    """Makes the call, again where that may help, until `deadline_s` on the flow's clock.

    A coordinator that follows names the one that writes, which is asked at once then, under the same id. What if that
    one is gone, or follows too by now? Then whoever was asked first is asked again, after a pause.

    Raises the class the coordinator's code stands for, or the transport's: Unreachable, Disconnected, TimedOut.
    """
    request_id = yield Mint()
    pause_s = _PAUSE_FIRST_S
    asked: set[str] = set()
    at: str | None = None
    is_open = False
    while True:
        left_s = deadline_s - (yield from now())
        timeout_s = min(left_s, REQUEST_S + call.wait_ms / 1000)
        try:
            if timeout_s <= 0:
                raise TimedOut(f"there was no time left for {call.route.method} {call.route.path}")
            response: Response = yield Send(as_request(call, request_id, at), timeout_s)
            return parse(call, response)
        except WeftError as error:
            left_s = deadline_s - (yield from now())
            writer = None if call.operation in _OF_THE_ONE_ASKED else _writer_named(error)
            if writer is not None and writer not in asked and left_s > 0:
                asked.add(writer)
                at = writer
                continue
            asked, at = set(), None
            if not error.temporary or left_s <= pause_s:
                raise
            is_open = _opens(error) or (is_open and isinstance(error, _UNDECIDED))
            if not is_open:
                request_id = yield Mint()
        yield Pause(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_LONGEST_S)


def _opens(error: WeftError) -> bool:
    """Whether the request may have been carried out: then it is repeated under its id, and gets the first one's answer.

    A journal that failed may still commit what it was given, and what stands in between (its refusals have a status)
    may have lost the answer; every other refusal left nothing.
    """
    return isinstance(error, _LOST) or (
        isinstance(error, Unavailable) and (error.facts.get("reason") == "journal" or "status" in error.facts)
    )


def _writer_named(error: WeftError) -> str | None:
    """The address of the coordinator that writes, from one that does not, where a path can be put behind it."""
    if not isinstance(error, NotTheWriter):
        return None
    writer = error.facts.get("writer")
    if not isinstance(writer, str) or not writer.isprintable() or not set(writer).isdisjoint(" ?#@\\"):
        return None
    try:
        parts = urlsplit(writer)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return writer.rstrip("/") if is_address else None


def as_request(call: Call[Any], request_id: str, at: str | None = None) -> Request:
    """The request a call becomes."""
    target = call.route.path.format_map({name: quote(value, safe="") for name, value in call.path.items()})
    if call.query:
        target += "?" + urlencode(call.query)
    headers = {"accept": "application/json", "weft-request-id": request_id}
    if call.token is not None:
        headers["authorization"] = f"Bearer {call.token}"
    body = None
    if call.body is not None:
        headers["content-type"] = "application/json"
        body = msgspec.json.encode(call.body)
    return Request(method=call.route.method, target=target, headers=headers, body=body, at=at)


def parse(call: Call[T], response: Response) -> T:
    """The body of a success, or the error of a refusal, raised."""
    if not 200 <= response.status < 300:
        raise refusal(response)
    if call.reply is NoneType and not response.body:
        return cast("T", None)
    try:
        return msgspec.json.decode(response.body, type=call.reply)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Failed(
            f"the answer to {call.route.method} {call.route.path} is not what this version of Weft expects; "
            "is that a Weft coordinator, and of this version?"
        ) from error


class _Envelope(Struct, frozen=True):
    """Every family's refusal at once: they differ in what they call the sentence."""

    error: str | None = None
    detail: str | None = None
    message: str | None = None
    code: str | None = None
    fields: dict[str, Any] = {}
    node_id: str | None = None


def refusal(response: Response) -> WeftError:
    """The error a refusal stands for. What is no envelope of ours came from something in between."""
    try:
        envelope = msgspec.json.decode(response.body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        envelope = _Envelope()
    sentence = envelope.error or envelope.detail or envelope.message
    if envelope.code is None or sentence is None:
        kind = Unavailable if response.status in (502, 503, 504) else Failed
        return kind(
            f"something that is no Weft coordinator answered with status {response.status}", status=response.status
        )
    facts = dict(envelope.fields)
    if envelope.node_id is not None:
        facts["node_id"] = envelope.node_id
    code = InvalidField.code if envelope.code == INVALID_PARAMS else envelope.code
    return from_code(code, sentence, facts)
