"""A call: one request, decoded. What a handler is given, and what it may give back."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive

from weft.api.bodies.fields import words_for
from weft.model.errors import BodyTooLarge, Disconnected, InvalidField, MalformedJson, TimedOut
from weft.model.ids import RequestId
from weft.model.policy import COUNT_MAX

AT_LEAST: Final = "at_least"
"""What every read accepts beside its own query."""

_MATCHING: Final = "Expected `str` matching regex "
_OF_A_WHOLE_OBJECT: Final = {
    "Object missing required field `": "this field is required",
    "Object contains unknown field `": "there is no such field here",
}
"""What the decoder says of an object where it means a field of it, and what we say of the field."""

Headers = Iterable[tuple[bytes, bytes]]


class Call:
    """One request. `request_id_given` says whether the caller chose the id, and so may repeat the request under it.

    `correlation_id` goes through everything one wish of a caller leads to, and `identity` is who spoke, as a log may
    name it.
    """

    __slots__ = (
        "_receive",
        "body",
        "correlation_id",
        "headers",
        "identity",
        "path",
        "query",
        "request_id",
        "request_id_given",
    )

    def __init__(
        self,
        request_id: RequestId,
        request_id_given: bool,
        path: Mapping[str, str],
        headers: Headers,
        receive: Receive,
        correlation_id: str = "",
        identity: str = "",
    ) -> None:
        self._receive = receive
        self.correlation_id = correlation_id
        self.identity = identity
        self.request_id = request_id
        self.request_id_given = request_id_given
        self.path = path
        self.headers = headers
        self.body: Any = None
        self.query: Any = None

    def header(self, name: bytes) -> bytes | None:
        """A header by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    async def read(self, limit_bytes: int, ms_max: int) -> bytes:
        """The body as it came, for a route whose body is not JSON. Raises `BodyTooLarge`, `TimedOut`."""
        return await read_body(self._receive, limit_bytes, ms_max)

    async def caller_left(self) -> None:
        """Return when the caller has closed its connection. Only once the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Content(msgspec.Struct, frozen=True):
    """A reply that is not JSON, or JSON that is already encoded."""

    body: bytes
    media_type: bytes = b"application/json"


class Stream(msgspec.Struct, frozen=True):
    """A reply that goes on: parts as they come, until they end, the caller leaves, or a part is not taken in time."""

    parts: AsyncGenerator[bytes, None]
    media_type: bytes


Handler = Callable[[Call], Awaitable[Any]]


async def read_body(receive: Receive, limit_bytes: int, ms_max: int) -> bytes:
    """The whole body. Raises `BodyTooLarge` as soon as it is, without reading on, and `TimedOut` when it is slow."""
    reading = _read_all(receive, limit_bytes)
    try:
        waited = reading.send(None)
    except StopIteration as ended:
        # Nearly every body is there before it is asked for, and a timer would cost more than reading it.
        whole: bytes = ended.value
        return whole
    try:
        async with asyncio.timeout(ms_max / 1_000):
            return await _Begun(reading, waited)
    except TimeoutError as error:
        raise TimedOut(f"the body did not arrive in {ms_max} ms") from error


class _Begun:
    """The rest of a coroutine that was begun by hand and now waits for something."""

    __slots__ = ("_coroutine", "_waited")

    def __init__(self, coroutine: Coroutine[Any, Any, bytes], waited: Any) -> None:
        self._coroutine = coroutine
        self._waited = waited

    def __await__(self) -> Generator[Any, Any, bytes]:
        try:
            while True:
                try:
                    value = yield self._waited
                except BaseException as error:
                    self._waited = self._coroutine.throw(error)
                else:
                    self._waited = self._coroutine.send(value)
        except StopIteration as ended:
            whole: bytes = ended.value
            return whole


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


def split_query(query_string: bytes) -> dict[str, str]:
    """The query's fields. A name given twice counts once, the last time."""
    try:
        return dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=64))
    except ValueError as error:
        raise InvalidField("the query has too many fields", field="query") from error


def decode_query(kind: type, fields: Mapping[str, str]) -> Any:
    """The query as its type."""
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from error


def take_at_least(fields: dict[str, str]) -> int | None:
    """The position a reader wants to see at least, taken out of the query's fields; None when it does not care."""
    text = fields.pop(AT_LEAST, None)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > COUNT_MAX:
        raise InvalidField(f"{AT_LEAST} is a position in the log", field=AT_LEAST)
    return int(text)


def invalid_field(error: msgspec.ValidationError) -> InvalidField:
    """What is wrong and where, from "Expected `int`, got `str` - at `$.nodes[0].cpu_count`".

    A field that is missing, or that nobody knows, is named by its object and itself, like one that is wrong.
    """
    what, _, where = str(error).partition(" - at `")
    field = where.rstrip("`").removeprefix("$").removeprefix(".")
    for said, meant in _OF_A_WHOLE_OBJECT.items():
        if what.startswith(said):
            name = what.removeprefix(said).rstrip("`")
            field, what = f"{field}.{name}" if field else name, meant
    if what.startswith(_MATCHING) and (words := words_for(what.removeprefix(_MATCHING))) is not None:
        what = f"Expected {words}"
    return InvalidField(f"{field}: {what}" if field else what, field=field)
