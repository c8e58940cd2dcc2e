"""Following the log from outside, without I/O: where to go on, and the events in the bytes that come.

A stream that breaks is asked for again from the event that was seen last, so what its reader is handed is the log, each
event once and none left out, however often the connection ended in between.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from weft.api.bodies.events import EventInfo, decode_event
from weft.client.call import Call, as_request, refusal
from weft.client.ports import Request, Response
from weft.model.errors import Failed, InvalidField
from weft.model.policy import WATCH_QUIET_MS

QUIET_S: Final = 3 * WATCH_QUIET_MS / 1_000
"""A stream says every fifteen seconds that it lives; three times that without a word is a stream that died."""
STREAM_BYTES_MAX: Final = 64 << 20
"""The longest single event; a layout of the widest region takes a few hundred kilobytes."""


class Watching:
    """One reader's way through the log."""

    def __init__(self, since: int | str = 0, *, follow: bool = True, token: str | None = None) -> None:
        self.since = str(since)
        self._follow = follow
        self._token = token
        self._rest = b""

    def request(self, request_id: str) -> Request:
        """What to ask, now: the log after what was seen last."""
        self._rest = b""
        query: dict[str, str | int] = {"from": self.since, "follow": int(self._follow)}
        call = Call(operation="watch_events", reply=EventInfo, query=query, token=self._token)
        request = as_request(call, request_id)
        return msgspec.structs.replace(request, headers={**request.headers, "accept": "text/event-stream"})

    def check(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raise what the coordinator refused with. `body` is the whole answer then."""
        if status != 200:
            raise refusal(Response(status=status, headers=headers, body=body))

    def feed(self, part: bytes) -> Iterator[EventInfo]:
        """The events that are complete with this part. What follows the last of them is kept for the next part."""
        *blocks, self._rest = (self._rest + part).split(b"\n\n")
        if len(self._rest) > STREAM_BYTES_MAX:
            raise Failed("an event of the stream does not end; is that a Weft coordinator?")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
            if b"data" not in fields:
                continue
            try:
                event = decode_event(fields[b"data"])
            except (msgspec.MsgspecError, UnicodeDecodeError, InvalidField) as error:
                raise Failed("an event of the stream is not one this version of Weft knows") from error
            self.since = fields.get(b"id", b"").decode("latin-1") or self.since
            yield event
