"""Share commitments, held against a second method of our own, and against what others computed where it is at hand."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vectors.share_commitments import FILE, commitment, content
from weft.ledger.layers.celestia.commitment import share_commitment, shares_of, tree_widths
from weft.model.namespace import Namespace, parse_namespace

VECTORS = json.loads(FILE.read_text())
OTHERS = Path(__file__).parents[2].parent / "shared" / "vectors" / "celestia"
needs_others = pytest.mark.skipif(not OTHERS.is_dir(), reason="the vectors of others are not beside this checkout")
OURS = parse_namespace("00" * 19 + "77656674000000000001")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['size']}-v{vector['share_version']}")
def test_both_methods_agree(vector: dict[str, object]) -> None:
    found = share_commitment(
        Namespace(bytes.fromhex(str(vector["namespace"]))),
        content(int(str(vector["size"]))),
        share_version=int(str(vector["share_version"])),
        signer=bytes.fromhex(str(vector["signer"])),
    )
    assert found.hex() == vector["commitment"]


@pytest.mark.parametrize("size", [1, 478, 479, 10_000])
def test_the_second_method_still_gives_what_was_written_down(size: int) -> None:
    data = content(size)
    assert share_commitment(OURS, data) == commitment(OURS, data)


def test_any_change_is_another_commitment() -> None:
    data = content(5_000)
    other = bytes([data[0] ^ 1]) + data[1:]
    elsewhere = parse_namespace("00" * 19 + "77656674000000000002")
    found = {
        share_commitment(OURS, data),
        share_commitment(OURS, other),
        share_commitment(OURS, data + b"\0"),
        share_commitment(elsewhere, data),
        share_commitment(OURS, data, share_version=1, signer=bytes(20)),
    }
    assert len(found) == 5, "padding with zeros is no exception: the length is in the first share"


def test_every_share_has_its_size_and_all_the_bytes_are_in_them() -> None:
    data = content(5_000)
    shares = list(shares_of(OURS, data, 0, b""))
    assert {len(share) for share in shares} == {512}
    assert b"".join([shares[0][34:], *(share[30:] for share in shares[1:])])[: len(data)] == data


@pytest.mark.parametrize(
    ("count", "widths"),
    [
        (1, [1]),
        (2, [1, 1]),
        (3, [1, 1, 1]),
        (64, [1] * 64),
        (65, [2] * 32 + [1]),
        (129, [4] * 32 + [1]),
        (131, [4] * 32 + [2, 1]),
    ],
)
def test_trees_are_as_wide_as_their_number_asks(count: int, widths: list[int]) -> None:
    assert list(tree_widths(count)) == widths


@needs_others
def test_a_nodes_own_example_has_the_commitment_it_says() -> None:
    blob = json.loads((OTHERS / "node_docgen_blob.json").read_text())
    found = share_commitment(Namespace(base64.b64decode(blob["namespace"])), base64.b64decode(blob["data"]))
    assert found == base64.b64decode(blob["commitment"])


@needs_others
def test_a_blob_on_a_real_chain_has_the_commitment_its_transaction_paid_for() -> None:
    block = json.loads((OTHERS / "app_mocha_block_10383867.json").read_text())
    checked = 0
    for transaction in block["txs"]:
        outer = list(fields(base64.b64decode(transaction)))
        blobs = [dict(fields(value)) for number, value in outer if number == 2]
        (inner,) = [value for number, value in outer if number == 1]
        (body,) = [value for number, value in fields(inner) if number == 1]
        (message,) = [value for number, value in fields(body) if number == 1]
        (payment,) = [value for number, value in fields(message) if number == 2]
        paid_for = [value for number, value in fields(payment) if number == 4]
        for blob, expected in zip(blobs, paid_for, strict=True):
            assert share_commitment(Namespace(b"\0" + blob[1]), blob[2]) == expected
            checked += 1
    assert checked >= 1


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            yield key >> 3, message[at : at + size]
            at += size
        else:
            assert key & 7 == 0, "the others are not in these messages"
            varint()
