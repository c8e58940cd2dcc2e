"""Envelopes: whose a blob is and which of its kind, held against everybody who may write beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.ledger.envelope import OVERHEAD_BYTES, Kind, Publisher, unwrap, wrap
from weft.model.errors import BlobForeign
from weft.model.ids import ClusterId
from weft.receipts import Domain, SigningKey

OURS = SigningKey.from_secret(b"ours", Domain.PUBLISHER)
THEIRS = SigningKey.from_secret(b"theirs", Domain.PUBLISHER)
CLUSTER = ClusterId(b"c" * 16)
SEALED = wrap(OURS, CLUSTER, Kind.BATCH, 7, b"payload")


@given(kind=st.sampled_from(Kind), sequence=st.integers(0, 2**64 - 1), payload=st.binary(max_size=200))
def test_what_is_wrapped_comes_out_as_it_went_in(kind: Kind, sequence: int, payload: bytes) -> None:
    sealed = wrap(OURS, CLUSTER, kind, sequence, payload)
    envelope = unwrap(sealed, [THEIRS.public, OURS.public], CLUSTER)
    assert (envelope.kind, envelope.sequence, envelope.payload) == (kind, sequence, payload)
    assert (envelope.cluster_id, envelope.publisher) == (CLUSTER, OURS.public)
    assert len(sealed) == OVERHEAD_BYTES + len(payload)


def test_one_content_has_one_envelope_so_that_putting_it_again_is_the_same_blob() -> None:
    assert wrap(OURS, CLUSTER, Kind.BATCH, 7, b"payload") == SEALED


@pytest.mark.parametrize("place", range(len(SEALED)))
def test_a_changed_byte_anywhere_makes_it_foreign(place: int) -> None:
    changed = bytearray(SEALED)
    changed[place] ^= 1
    with pytest.raises(BlobForeign):
        unwrap(bytes(changed), [OURS.public], CLUSTER)


@pytest.mark.parametrize("length", [0, 1, OVERHEAD_BYTES - 1, len(SEALED) - 1])
def test_a_cut_envelope_is_foreign(length: int) -> None:
    with pytest.raises(BlobForeign) as foreign:
        unwrap(SEALED[:length], [OURS.public], CLUSTER)
    assert foreign.value.reason == "format"


def test_a_stranger_who_signs_well_is_a_stranger() -> None:
    with pytest.raises(BlobForeign) as foreign:
        unwrap(wrap(THEIRS, CLUSTER, Kind.BATCH, 7, b"payload"), [OURS.public], CLUSTER)
    assert foreign.value.reason == "key"


def test_a_stranger_who_names_our_key_is_found_out() -> None:
    forged = bytearray(wrap(THEIRS, CLUSTER, Kind.BATCH, 7, b"payload"))
    forged[32:64] = OURS.public
    with pytest.raises(BlobForeign) as foreign:
        unwrap(bytes(forged), [OURS.public], CLUSTER)
    assert foreign.value.reason == "signature"


def test_an_envelope_of_another_cluster_with_the_same_secret_is_foreign() -> None:
    with pytest.raises(BlobForeign) as foreign:
        unwrap(SEALED, [OURS.public], ClusterId(b"d" * 16))
    assert foreign.value.reason == "cluster"
    assert unwrap(SEALED, [OURS.public]).cluster_id == CLUSTER, "who does not know the cluster yet takes any"


def test_a_batch_goes_into_an_open_place_as_it_is() -> None:
    publisher = Publisher(OURS, CLUSTER)
    assert publisher.outer(SEALED) == SEALED
    assert publisher.inner(SEALED) == SEALED


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"hello world",
        SEALED[:-1],
        wrap(OURS, CLUSTER, Kind.BLOB, 0, b"x"),
        wrap(THEIRS, CLUSTER, Kind.BATCH, 1, b""),
    ],
)
def test_what_comes_out_of_an_open_place_is_what_went_in(blob: bytes) -> None:
    publisher = Publisher(OURS, CLUSTER)
    assert publisher.outer(blob) != blob
    assert publisher.inner(publisher.outer(blob)) == blob


def test_what_others_put_in_an_open_place_does_not_come_out() -> None:
    with pytest.raises(BlobForeign):
        Publisher(OURS, CLUSTER).inner(Publisher(THEIRS, CLUSTER).outer(b"hello"))
