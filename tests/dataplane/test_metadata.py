"""Metadata says one thing in one way; the older form is read where it says only one."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.dataplane.metadata import DEVICE_BYTES_MAX, Metadata
from weft.model.errors import BadArgument

ADDRESSES = st.ip_addresses().map(str)


@given(ADDRESSES, st.integers(1, 65_535), st.text("abcdef0123456789:.", max_size=DEVICE_BYTES_MAX))
def test_what_was_encoded_is_decoded(host: str, port: int, device: str) -> None:
    metadata = Metadata(host=host, port=port, device=device)
    assert Metadata.decode(metadata.encode()) == metadata


@given(st.binary(max_size=120))
def test_any_bytes_are_metadata_or_refused_with_a_sentence(data: bytes) -> None:
    with contextlib.suppress(BadArgument):
        assert Metadata.decode(data).port > 0


@pytest.mark.parametrize("length", range(11))
def test_metadata_that_was_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BadArgument):
        Metadata.decode(Metadata(host="10.0.0.1", port=5).encode()[:length])


def old(address: bytes, port: int, device: bytes) -> bytes:
    return address + port.to_bytes(2, "big") + bytes([len(device)]) + device


def test_the_seeds_older_form_is_read() -> None:
    found = Metadata.decode(old(bytes([10, 0, 0, 1]), 5000, b"0000:0a:00.0"))
    assert found == Metadata(host="10.0.0.1", port=5000, device="0000:0a:00.0")
    found = Metadata.decode(old(bytes.fromhex("20010db8000000000000000000000001"), 5000, b"0000:0a:00.0"))
    assert found == Metadata(host="2001:db8::1", port=5000, device="0000:0a:00.0")


def test_an_ipv6_address_that_the_seed_took_for_ipv4_is_read_as_what_it_is() -> None:
    # Its seventh byte is what the length of an IPv4 reading would be: 31 bytes in all, 31 - 7 = 24.
    address = bytes.fromhex("20010db800001800000000000000beef")
    assert Metadata.decode(old(address, 5000, b"0000:0a:00.0")).host == "2001:db8:0:1800::beef"
