"""The log as a stream of events."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import whole
from weft.model.events import Event
from weft.model.ids import parse_incarnation, spell_incarnation


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to begin, after a position or after an event of one, and whether to stay for what is still to come."""

    since: Annotated[
        str, Meta(pattern=whole(r"[0-9]{1,15}(\.[0-9]{1,15})?", "a position, or a position and an index like 17.2"))
    ] = msgspec.field(name="from", default="0")
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


_INCARNATION: Final = "incarnation"
_IS_THERE: Final = b'"incarnation":'
_encode: Final = msgspec.json.Encoder().encode


def encode_event(info: EventInfo) -> bytes:
    """An event as JSON. Incarnations are hex digits, as on every other route: a browser would round a number."""
    plain = _encode(info)
    if _IS_THERE not in plain:
        return plain
    return _encode(_respelt(msgspec.to_builtins(info), spell_incarnation))


def decode_event(raw: bytes) -> EventInfo:
    """The event again. Raises `msgspec.MsgspecError` or `InvalidField` for what is none."""
    if _IS_THERE not in raw:
        return msgspec.json.decode(raw, type=EventInfo)
    return msgspec.convert(_respelt(msgspec.json.decode(raw), _number_of), EventInfo)


def _number_of(spelt: Any) -> Any:
    """A number from its digits. What is something else is left for the decoder to refuse."""
    return parse_incarnation(spelt) if isinstance(spelt, str) else spelt


def _respelt(value: Any, spell: Callable[[Any], Any]) -> Any:
    """A tree of plain values with every incarnation in it spelt otherwise."""
    if isinstance(value, dict):
        return {
            name: spell(inner) if name == _INCARNATION and inner is not None else _respelt(inner, spell)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_respelt(inner, spell) for inner in value]
    return value
