"""Ids are parsed once and spelled as they came."""

import pytest

from weft.model.errors import InvalidField
from weft.model.ids import (
    NodeId,
    mint_attachment_id,
    mint_region_id,
    parse_attachment_id,
    parse_cluster_id,
    parse_incarnation,
    parse_node_id,
    parse_region_id,
    parse_region_name,
    parse_request_id,
    spell_incarnation,
    spell_node_id,
)


@pytest.mark.parametrize(
    ("given", "spelled"),
    [(0, 0), (7, 7), ("7", 7), ("07", "07"), ("a.b-c_d", "a.b-c_d"), ("-1", "-1"), (2**63 - 1, 2**63 - 1)],
)
def test_a_node_id_that_reads_as_an_integer_goes_out_as_one(given: int | str, spelled: int | str) -> None:
    assert spell_node_id(parse_node_id(given)) == spelled


def test_an_integer_too_large_for_an_id_stays_text() -> None:
    assert spell_node_id(NodeId("9" * 19)) == "9" * 19


@pytest.mark.parametrize("given", [-1, 2**63, "", "a b", "a/b", "ü", "a" * 257, "a\n", "../x\0"])
def test_a_node_id_outside_the_alphabet_is_refused(given: int | str) -> None:
    with pytest.raises(InvalidField) as refusal:
        parse_node_id(given)
    assert refusal.value.field == "node_id"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", "a\n"])
def test_a_region_name_outside_the_alphabet_is_refused(given: str) -> None:
    with pytest.raises(InvalidField):
        parse_region_name(given)


def test_minted_ids_parse() -> None:
    assert parse_region_id(mint_region_id(1)) == "r0000000000000001"
    assert parse_attachment_id(mint_attachment_id(2**64 - 1)) == "affffffffffffffff"


@pytest.mark.parametrize("given", ["", "0" * 16, "A" * 16, "1" * 15, "1" * 17, "g" * 16])
def test_an_incarnation_is_sixteen_hex_digits_and_not_zero(given: str) -> None:
    with pytest.raises(InvalidField):
        parse_incarnation(given)


def test_an_incarnation_survives_its_spelling() -> None:
    assert spell_incarnation(parse_incarnation("00000000000000a1")) == "00000000000000a1"


def test_a_cluster_id_is_thirty_two_hex_digits() -> None:
    assert parse_cluster_id("00" * 15 + "ff") == bytes(15) + b"\xff"
    with pytest.raises(InvalidField):
        parse_cluster_id("xyz")


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a~b", "ä"])
def test_a_request_id_cannot_look_like_anything_else(given: str) -> None:
    with pytest.raises(InvalidField):
        parse_request_id(given)
