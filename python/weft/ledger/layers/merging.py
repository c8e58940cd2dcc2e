"""Merging the lists of several validators into one order, and the cursor that says how far each was read.

A cursor names each validator by the beginning of its key: `0123456789abcdef=12,fedcba9876543210=9`. A validator that
was away stays where it was, so what it alone keeps comes when it is back; a new one is read from its beginning.
"""

import heapq
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from weft.ledger.layer import Commitment, Cursor
from weft.ledger.layers.cursor import whole_number
from weft.ledger.layers.server import Page
from weft.model.errors import LayerRefused
from weft.receipts import PublicKey

_SIGN_DIGITS: Final = 16
_SIGN: Final = re.compile(r"[0-9a-f]{16}")

Places = Mapping[str, int]


class Stretch(NamedTuple):
    """What one validator listed. `source` is its place among the validators, `sign` how a cursor names it."""

    source: int
    sign: str
    page: Page


class MergedLine(NamedTuple):
    """A blob and those who list it, the least of their heights first."""

    commitment: Commitment
    height: int
    sources: tuple[int, ...]


class Merged(NamedTuple):
    """A stretch of the merged order, and where each validator was read to."""

    lines: Sequence[MergedLine]
    places: Places
    is_end: bool


def sign_of(key: PublicKey) -> str:
    """How a cursor names a validator."""
    return key.hex()[:_SIGN_DIGITS]


def parse_places(cursor: Cursor, layer: str) -> dict[str, int]:
    """How far each validator was read. Raises `LayerRefused`."""
    places: dict[str, int] = {}
    for part in filter(None, cursor.split(",")):
        sign, equals, height = part.partition("=")
        if not equals or _SIGN.fullmatch(sign) is None:
            raise LayerRefused(
                f"{cursor!r} is not a cursor of the {layer} layer; begin again with an empty one", layer=layer
            )
        places[sign] = whole_number(height, cursor, layer)
    return places


def spell_places(places: Places) -> str:
    """The cursor of some places."""
    return ",".join(f"{sign}={height}" for sign, height in sorted(places.items()))


def merge(stretches: Sequence[Stretch], places: Places, count_max: int) -> Merged:
    """The first blobs of several lists in the order of their heights, each once.

    It ends where one list ends that has more behind it: what comes next might come before what the others have.
    """
    reached = dict(places)
    heap: list[tuple[int, str, int, int]] = []
    for place, stretch in enumerate(stretches):
        if stretch.page.blobs:
            first = stretch.page.blobs[0]
            heap.append((first.height, first.commitment, place, 0))
    heapq.heapify(heap)
    order: dict[str, tuple[int, list[int]]] = {}
    known_to: tuple[int, str] | None = None
    cut = False
    while heap:
        height, commitment, place, index = heap[0]
        is_full = commitment not in order and len(order) >= count_max
        if is_full or (known_to is not None and (height, commitment) > known_to):
            cut = True
            break
        heapq.heappop(heap)
        stretch = stretches[place]
        order.setdefault(commitment, (height, []))[1].append(stretch.source)
        reached[stretch.sign] = height
        if index + 1 < len(stretch.page.blobs):
            following = stretch.page.blobs[index + 1]
            heapq.heappush(heap, (following.height, following.commitment, place, index + 1))
        elif not stretch.page.is_end:
            cut, known_to = True, min(known_to or (height, commitment), (height, commitment))
    # An empty page that is no end would never end; it cannot come from a server that is well.
    is_end = not cut and all(stretch.page.is_end for stretch in stretches)
    lines = [
        MergedLine(Commitment(commitment), height, tuple(sources)) for commitment, (height, sources) in order.items()
    ]
    return Merged(lines, reached, is_end)
