"""Grants: the bytes are pinned, and nothing that differs from them passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.model.attachment import Mode, Right
from weft.model.errors import GrantExpired, GrantForged
from weft.model.grant import Grant, grant_key, hello_key, http_token, mint, verify
from weft.model.ids import ClusterId, Generation, RegionId

KEY = grant_key(b"secret")
GRANT = Grant(
    cluster_id=ClusterId(bytes(range(16))),
    region_id=RegionId("r0123456789abcdef"),
    generation=Generation(7),
    mode=Mode.EXCLUSIVE,
    rights=Right.READ | Right.WRITE,
    holder="me",
    expires_at_ms=1_700_000_000_000,
)
BODY_HEX = (
    "5747523102030000000102030405060708090a0b0c0d0e0f07000000000000000068e5cf8b01000011000200"
    "72303132333435363738396162636465666d65"
)  # fmt: skip


def test_the_bytes_of_a_grant_are_pinned() -> None:
    assert mint(GRANT, KEY).hex() == BODY_HEX + "7b9162ca21db5ffc4edeaf9fd753c7628fb70052868665b27f0fe6d7adfea2b2"


def test_the_keys_are_pinned_and_differ() -> None:
    assert grant_key(b"secret").hex() == "36f757fbb5b1b102cacdd342d12544a1acd26ec7d5adeddf96077ddb0effbd8a"
    assert len({grant_key(b"secret"), hello_key(b"secret"), bytes.fromhex(http_token(b"secret"))}) == 3


def test_a_grant_reads_back_as_what_was_granted() -> None:
    assert verify(mint(GRANT, KEY), KEY, GRANT.expires_at_ms - 1) == GRANT


def test_a_grant_ends_at_its_time() -> None:
    with pytest.raises(GrantExpired):
        verify(mint(GRANT, KEY), KEY, GRANT.expires_at_ms)


def test_a_grant_of_another_cluster_s_secret_is_forged() -> None:
    with pytest.raises(GrantForged):
        verify(mint(GRANT, grant_key(b"other")), KEY, 0)


@given(st.integers(0, len(mint(GRANT, KEY)) * 8 - 1))
def test_no_bit_of_a_grant_can_be_changed(bit: int) -> None:
    sealed = bytearray(mint(GRANT, KEY))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(GrantForged):
        verify(bytes(sealed), KEY, 0)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_grant(sealed: bytes) -> None:
    with pytest.raises(GrantForged):
        verify(sealed, KEY, 0)


@given(
    st.sampled_from([Mode.READ, Mode.EXCLUSIVE, Mode.PRIVATE]),
    st.integers(0, 2**64 - 1),
    st.text(max_size=200),
    st.integers(1, 2**64 - 1),
)
def test_any_grant_survives_its_bytes(mode: Mode, generation: int, holder: str, expires_at_ms: int) -> None:
    grant = Grant(
        cluster_id=GRANT.cluster_id,
        region_id=GRANT.region_id,
        generation=Generation(generation),
        mode=mode,
        rights=Right.READ,
        holder=holder,
        expires_at_ms=expires_at_ms,
    )
    assert verify(mint(grant, KEY), KEY, 0) == grant
