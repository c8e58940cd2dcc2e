"""A namespace on Celestia: the name under which blobs lie in every block, which anybody may write under.

29 bytes: a version, which is 0, 18 zero bytes, and ten that are chosen. What those ten may not be are the names the
chain keeps for itself, which are the ones up to 255.
"""

from typing import Final, NewType

from weft.model.errors import InvalidField

Namespace = NewType("Namespace", bytes)
NAMESPACE_BYTES: Final = 29
CHOSEN_BYTES: Final = 10
_RESERVED_MAX: Final = bytes(NAMESPACE_BYTES - 1) + b"\xff"


def parse_namespace(text: str, field: str = "namespace") -> Namespace:
    """The namespace that 58 hex digits name. Raises `InvalidField`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != NAMESPACE_BYTES or len(text) != 2 * NAMESPACE_BYTES:
        raise InvalidField(f"{field} is {2 * NAMESPACE_BYTES} hex digits", field=field)
    prefix_bytes = NAMESPACE_BYTES - CHOSEN_BYTES
    if raw[:prefix_bytes] != bytes(prefix_bytes):
        raise InvalidField(
            f"{field} is {2 * prefix_bytes} zeros (the version and the padding) and {2 * CHOSEN_BYTES} digits of your "
            "own: Celestia knows no other version",
            field=field,
        )
    if raw <= _RESERVED_MAX:
        raise InvalidField(f"{field} is one of those Celestia keeps for itself, up to 00…ff", field=field)
    return Namespace(raw)
