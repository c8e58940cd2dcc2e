"""Global ids: two spellings, one address."""

import pytest

from weft.model.endpoint import parse_gid, spell_gid
from weft.model.errors import InvalidField

SEED_GID = bytes.fromhex("fe800000000000000a0027fffe000000")


@pytest.mark.parametrize(
    "text",
    [
        "fe80::a00:27ff:fe00:0",
        "fe80:0:0:0:a00:27ff:fe00:0",
        "fe800000000000000a0027fffe000000",
        "0xFE800000000000000A0027FFFE000000",
    ],
)
def test_a_gid_is_the_same_in_every_spelling(text: str) -> None:
    assert parse_gid(text) == SEED_GID
    assert spell_gid(SEED_GID) == "fe80::a00:27ff:fe00:0"


@pytest.mark.parametrize("text", ["", "fe80", "1.2.3.4", "fe80::1%eth0", "g" * 32, "0x" + "0" * 31, "0" * 33])
def test_what_is_neither_spelling_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        parse_gid(text)
    assert refusal.value.field == "rdma_gid"
