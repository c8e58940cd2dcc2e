"""A call: one request, decoded. What a handler is given, and what it may give back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive

from weft.model.errors import BodyTooLarge, Disconnected, InvalidField, MalformedJson, TimedOut
from weft.model.ids import RequestId

Headers = Iterable[tuple[bytes, bytes]]


class Call:
    """One request. `request_id_given` says whether the caller chose the id, and so may repeat the request under it."""

    __slots__ = ("_receive", "body", "headers", "path", "query", "request_id", "request_id_given")

    def __init__(
        self,
        request_id: RequestId,
        request_id_given: bool,
        path: Mapping[str, str],
        headers: Headers,
        receive: Receive,
    ) -> None:
        self._receive = receive
        self.request_id = request_id
        self.request_id_given = request_id_given
        self.path = path
        self.headers = headers
        self.body: Any = None
        self.query: Any = None

    def header(self, name: bytes) -> bytes | None:
        """A header by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    async def caller_left(self) -> None:
        """Return when the caller has closed its connection. Only once the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Content(msgspec.Struct, frozen=True):
    """A reply that is not JSON, or JSON that is already encoded."""

    body: bytes
    media_type: bytes = b"application/json"


Handler = Callable[[Call], Awaitable[Any]]


async def read_body(receive: Receive, limit_bytes: int, ms_max: int) -> bytes:
    """The whole body. Raises `BodyTooLarge` as soon as it is, without reading on, and `TimedOut` when it is slow."""
    try:
        async with asyncio.timeout(ms_max / 1_000):
            return await _read_all(receive, limit_bytes)
    except TimeoutError as error:
        raise TimedOut(f"the body did not arrive in {ms_max} ms") from error


async def _read_all(receive: Receive, limit_bytes: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected("the caller left before the request was complete")
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > limit_bytes:
            raise BodyTooLarge(f"a request body has at most {limit_bytes} bytes", limit_bytes=limit_bytes)
        body = body + part if body else part
        if not message.get("more_body"):
            return body


def decode_body(decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    """The body as its type. Raises `MalformedJson` when it is no JSON, `InvalidField` when it is the wrong JSON."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        # A wrong field may be met before a broken end is, and what is not JSON has no fields.
        _decode_anything(raw)
        raise invalid_field(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedJson(f"the body is not JSON: {error}") from error


def _decode_anything(raw: bytes) -> None:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedJson(f"the body is not JSON: {error}") from error


def decode_query(kind: type, query_string: bytes) -> Any:
    """The query as its type. A name given twice counts once, the last time."""
    try:
        pairs = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=64))
        return msgspec.convert(pairs, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from error
    except ValueError as error:
        raise InvalidField("the query has too many fields", field="query") from error


def invalid_field(error: msgspec.ValidationError) -> InvalidField:
    """What is wrong and where, from "Expected `int`, got `str` - at `$.nodes[0].cpu_count`"."""
    what, _, where = str(error).partition(" - at `")
    field = where.rstrip("`").removeprefix("$").removeprefix(".")
    return InvalidField(f"{field}: {what}" if field else what, field=field)
