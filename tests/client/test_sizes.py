"""Sizes as people write them."""

import pytest

from weft.client.sizes import format_size, parse_size
from weft.model.errors import BadArgument


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64GiB", 64 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("4096", 4096),
        (4096, 4096),
        ("2 kib", 2048),
        ("1TiB", 1 << 40),
        ("7 b", 7),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "4 GiG", "-4GiB", "4,5GiB", "0x10", "4GiB2"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadArgument, match="64GiB"):
        parse_size(text)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_size(-1)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 bytes"), (4096, "4.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 50, "1.0 PiB")]
)
def test_sizes_are_shown_with_the_unit_that_fits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
