"""Cursors: places in a layer's own order, opaque to everybody else and checked when they come back."""

from typing import Final

from weft.ledger.layer import Cursor
from weft.model.errors import LayerRefused

_DIGITS_MAX: Final = 20


def parse_count(cursor: Cursor, layer: str) -> int:
    """How many come before the place a cursor names; nothing does before `""`. Raises `LayerRefused`."""
    return 0 if cursor == "" else whole_number(cursor, cursor, layer)


def whole_number(text: str, cursor: str, layer: str) -> int:
    """A number inside a cursor."""
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise LayerRefused(
            f"{cursor!r} is not a cursor of the {layer} layer; begin again with an empty one", layer=layer
        )
    return int(text)
