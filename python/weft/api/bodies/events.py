"""The log as a stream of events."""

from typing import Annotated

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import whole
from weft.model.events import Event


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to begin, after a position or after an event of one, and whether to stay for what is still to come."""

    since: Annotated[str, Meta(pattern=whole(r"[0-9]{1,15}(\.[0-9]{1,15})?"))] = msgspec.field(name="from", default="0")
    follow: bool = True


class EventInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One event, where it stands and why it happened. `last` is true on the last event of its batch."""

    position: int
    index: int
    last: bool
    sequence: int
    at_ms: int
    cause: str
    kind: str
    event: Event
