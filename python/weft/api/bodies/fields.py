"""The kinds of field bodies are made of, each with its bounds, so that a wrong one is refused where it is decoded."""

from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta

from weft.model.ids import INTEGER_ID_MAX
from weft.model.policy import COUNT_MAX, ERROR_LENGTH_MAX, TEXT_LENGTH_MAX, WAIT_MS_MAX

_WORDS: Final[dict[str, str]] = {}


def spelt(pattern: str, words: str) -> str:
    """A pattern, and the words a refusal has for it: nobody should have to read one to learn what is wrong."""
    _WORDS[repr(pattern)] = words
    return pattern


def whole(pattern: str, words: str) -> str:
    """A pattern for all of a text. A bare `$` would let a line end follow what it closes."""
    return spelt(f"^{pattern}$(?!\n)", words)


def words_for(pattern_repr: str) -> str | None:
    """What fits a pattern, in words; the pattern is given as an error shows it, which is as its `repr`."""
    return _WORDS.get(pattern_repr)


Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Mebibytes = Annotated[int, Meta(ge=0, le=COUNT_MAX >> 20)]
"""So few that they are a count in bytes too, which is how other doors show them."""
PositiveCount = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Share = Annotated[float, Meta(ge=0, le=1)]
Quantity = Annotated[float, Meta(ge=0, le=COUNT_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_LENGTH_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
Sentence = Annotated[str, Meta(max_length=ERROR_LENGTH_MAX)]
NodeIdText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.-]{1,256}", "1 to 256 letters, digits, dots, dashes or underscores"))
]
NodeIdNumber = Annotated[int, Meta(ge=0, le=INTEGER_ID_MAX)]
RegionIdText = Annotated[str, Meta(pattern=whole("r[0-9a-f]{16}", "'r' and 16 lower-case hex digits"))]
RegionNameText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.-]{1,128}", "1 to 128 letters, digits, dots, dashes or underscores"))
]
AttachmentIdText = Annotated[str, Meta(pattern=whole("a[0-9a-f]{16}", "'a' and 16 lower-case hex digits"))]
PlacementIdText = Annotated[str, Meta(pattern=whole("p[0-9a-f]{16}", "'p' and 16 lower-case hex digits"))]
RequestIdText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.:-]{1,128}", "1 to 128 letters, digits, dots, colons, dashes or underscores"))
]
IncarnationText = Annotated[str, Meta(pattern=whole("(?!0{16})[0-9a-f]{16}", "16 lower-case hex digits, not all zero"))]
ObjectHashText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.:-]{1,128}", "1 to 128 letters, digits, dots, colons, dashes or underscores"))
]
WaitMs = Annotated[int, Meta(ge=0, le=WAIT_MS_MAX)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


def iso_time(at_ms: int) -> str:
    """A time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
