"""Sizes as people write and read them: `64GiB` in, `64.0 GiB` out. Inside, a size is a whole number of bytes."""

import re

from weft.model.errors import BadArgument

# Binary and decimal units both, each meaning what its letters say; a bare number is bytes.
_UNIT_BYTES: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(size: int | str) -> int:
    """The size in bytes: `parse_size("1.5GiB") == 1610612736`. Raises BadArgument when it is no size, or negative."""
    if isinstance(size, int):
        if size < 0:
            raise BadArgument(f"a size of {size} bytes is negative; give bytes or a text such as 64GiB")
        return size
    match = _SIZE.fullmatch(size)
    unit_bytes = _UNIT_BYTES.get(match[2].lower()) if match is not None else None
    if match is None or unit_bytes is None:
        raise BadArgument(f"{size!r} is no size; write a number and a unit, such as 64GiB, 1.5TiB or 500MB")
    number: str = match[1]
    if "." in number:
        return round(float(number) * unit_bytes)
    return int(number) * unit_bytes


def format_size(size_bytes: int) -> str:
    """The size for people: `format_size(1610612736) == "1.5 GiB"`."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"
