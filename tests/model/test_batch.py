"""Batches: canonical bytes, pinned, and refused when they are not what they claim."""

import msgspec
import pytest

from tests.worlds import World, node
from weft.model.batch import FORMAT, Batch, Entry, seal, unseal
from weft.model.canonical import NO_DIGEST, canonical_bytes
from weft.model.errors import JournalDamaged
from weft.model.events import ClusterFounded
from weft.model.ids import ClusterId, Position, Term

BATCH = Batch(
    cluster_id=ClusterId(bytes(16)),
    term=Term(1),
    publisher="p",
    position=Position(1),
    parent=NO_DIGEST,
    at_ms=5,
    entries=(Entry(sequence=1, cause="r", event=ClusterFounded(name="c", at_ms=5)),),
)


def test_the_keys_of_a_batch_are_sorted() -> None:
    keys = list(msgspec.msgpack.decode(seal(BATCH).body))
    assert keys == ["at_ms", "cluster_id", "entries", "format", "parent", "position", "publisher", "term"]


def test_the_digest_of_a_batch_is_pinned() -> None:
    assert seal(BATCH).digest.hex() == "a31f5e13a945428bc498dfc6191767d51f08005c562b1e546d77509a10100058"


def test_a_batch_reads_back_as_itself() -> None:
    world = World.founded(node("a", 4), node("b"))
    for sealed in world.log:
        assert unseal(sealed.body, sealed.batch.position) == sealed


def test_bytes_at_the_wrong_place_are_damage() -> None:
    with pytest.raises(JournalDamaged) as damage:
        unseal(seal(BATCH).body, Position(2))
    assert damage.value.position == 2


def test_bytes_that_are_no_batch_are_damage() -> None:
    with pytest.raises(JournalDamaged):
        unseal(b"\xc1nothing", Position(1))


def test_bytes_with_a_text_that_is_none_are_damage() -> None:
    body = seal(BATCH).body
    at = body.index(b"publisher") + len(b"publisher") + 1
    with pytest.raises(JournalDamaged):
        unseal(body[:at] + b"\xff" + body[at + 1 :], Position(1))


def test_a_batch_of_a_later_format_is_not_guessed_at() -> None:
    later = canonical_bytes(msgspec.structs.replace(BATCH, format=FORMAT + 1))
    with pytest.raises(JournalDamaged, match=f"format {FORMAT + 1}"):
        unseal(later, Position(1))


def test_events_hold_no_secret() -> None:
    world = World.founded(node("a", 4))
    assert all(b"secret" not in sealed.body for sealed in world.log)
