"""Rebuilding: the same state from the journal, from layers in any order, and from a snapshot; damage is named."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from tests.worlds import SECRET, CountingRandom, FakeClock, World, node
from weft.core.snapshot import describe, snapshot_bytes
from weft.core.state import state_digest
from weft.ledger import MemoryJournal
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layers import MemoryLayer
from weft.ledger.rebuild import JournalTarget, Progress, Target, rebuild_from_journal, rebuild_from_layers
from weft.ledger.snapshot import seal_snapshot
from weft.model.batch import SealedBatch
from weft.model.commands import OpenTerm
from weft.model.errors import JournalDamaged, JournalTrimmed
from weft.model.ids import Position
from weft.receipts import Domain, SigningKey

KEY = SigningKey.from_secret(SECRET, Domain.PUBLISHER)
OTHER = SigningKey.from_secret(b"another cluster's", Domain.PUBLISHER)


def lived(count: int = 40) -> World:
    world = World.founded()
    for number in range(count):
        world.do(node(str(number)))
    return world


WORLD = lived()
LOG = WORLD.log
HALF = lived(20)


def envelope(sealed: SealedBatch, key: SigningKey = KEY) -> bytes:
    return wrap(key, sealed.batch.cluster_id, Kind.BATCH, sealed.batch.position, sealed.body)


def rebuild(*contents: Sequence[bytes], target: Target | None = None) -> tuple[Target, list[Progress]]:
    """What comes of layers with these blobs, and what was told on the way."""
    told: list[Progress] = []
    target = target or Target()

    async def tell() -> None:
        layers = [MemoryLayer(FakeClock(), CountingRandom()) for _ in contents]
        for layer, content in zip(layers, contents, strict=True):
            for blob in content:
                await layer.put(blob)
        await rebuild_from_layers(layers, (KEY.public,), target, told.append)

    asyncio.run(tell())
    return target, told


def shuffled(blobs: Sequence[bytes], seed: int) -> list[bytes]:
    mixed = list(blobs)
    random.Random(seed).shuffle(mixed)
    return mixed


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_in_any_order_with_foreign_blobs_gives_the_same_state(seed: int) -> None:
    ours = [envelope(sealed) for sealed in LOG]
    foreign = [envelope(sealed, OTHER) for sealed in LOG[:5]] + [b"not an envelope", b""]
    target, told = rebuild(shuffled([*ours, *foreign], seed))
    assert state_digest(target.state) == state_digest(WORLD.state)
    assert snapshot_bytes(describe(target.state)) == snapshot_bytes(describe(WORLD.state))
    assert (told[-1].position, told[-1].passed_over) == (len(LOG), 7)


def test_what_one_layer_is_missing_another_has() -> None:
    ours = [envelope(sealed) for sealed in LOG]
    target, _ = rebuild([blob for place, blob in enumerate(ours) if place % 3], ours[::3])
    assert state_digest(target.state) == state_digest(WORLD.state)


@pytest.mark.parametrize("gone", [1, 7, 41])
def test_a_gap_is_named_by_its_position_and_nothing_is_guessed(gone: int) -> None:
    with pytest.raises(JournalDamaged) as damage:
        rebuild([envelope(sealed) for sealed in LOG if sealed.batch.position != gone])
    assert damage.value.position == gone


def test_a_changed_batch_is_no_batch_of_ours() -> None:
    blobs = [envelope(sealed) for sealed in LOG]
    blobs[9] = blobs[9][:200] + bytes([blobs[9][200] ^ 1]) + blobs[9][201:]
    with pytest.raises(JournalDamaged) as damage:
        rebuild(blobs)
    assert damage.value.position == 10


def test_an_empty_layer_is_no_state() -> None:
    with pytest.raises(JournalDamaged, match="nothing of this cluster's log"):
        rebuild([b"somebody else's"])


def test_a_snapshot_passes_what_was_pruned() -> None:
    pieces = seal_snapshot(describe(HALF.state), KEY)
    after = [envelope(sealed) for sealed in LOG[HALF.state.marks.position :]]
    for before in ([], [envelope(sealed) for sealed in LOG[:5]]):
        target, _ = rebuild(shuffled([*before, *after, *pieces], 3))
        assert target.began_at == HALF.state.marks.position
        assert snapshot_bytes(describe(target.state)) == snapshot_bytes(describe(WORLD.state))


def test_a_snapshot_alone_is_where_the_rebuild_ends() -> None:
    target, _ = rebuild(seal_snapshot(describe(WORLD.state), KEY))
    assert state_digest(target.state) == state_digest(WORLD.state)


def test_of_two_batches_at_one_position_the_one_that_was_followed_counts() -> None:
    never = lived(3)
    never.do(node("never-committed"))
    rival = never.log[-1]
    assert rival.batch.parent == LOG[rival.batch.position - 1].batch.parent
    target, _ = rebuild([envelope(rival), *(envelope(sealed) for sealed in LOG)])
    assert state_digest(target.state) == state_digest(WORLD.state)
    position = rival.batch.position
    with pytest.raises(JournalDamaged, match="two batches claim"):
        rebuild([envelope(rival), *(envelope(sealed) for sealed in LOG[:position])])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_of_two_logs_that_go_on_from_one_position_the_one_of_the_later_term_counts(count: int) -> None:
    given_up, lived_on = lived(3), lived(3)
    for number in range(count):
        given_up.do(node(f"given-up-{number}"))
    lived_on.do(OpenTerm(writer="again", address=""))
    for number in range(2):
        lived_on.do(node(f"lived-on-{number}"))
    fork = len(lived(3).log)
    beginning = [envelope(sealed) for sealed in lived_on.log[:fork]]
    one, other = ([envelope(sealed) for sealed in world.log[fork:]] for world in (given_up, lived_on))
    for mixed in ([*one, *other, *beginning], [*other, *one, *beginning]):
        target, _ = rebuild(mixed)
        assert state_digest(target.state) == state_digest(lived_on.state)


def test_a_journal_is_rebuilt_batch_by_batch() -> None:
    async def tell() -> None:
        async def never() -> MemoryJournal:
            raise AssertionError("nothing has to be thrown away")

        target = JournalTarget(MemoryJournal(), never)
        layer = MemoryLayer(FakeClock(), CountingRandom())
        for sealed in reversed(LOG):
            await layer.put(envelope(sealed))
        await rebuild_from_layers([layer], (KEY.public,), target, lambda _: None)
        assert list(await target.journal.read(Position(0), 100)) == LOG

    asyncio.run(tell())


def test_a_journal_begins_after_the_snapshot_that_passed_a_gap() -> None:
    async def tell() -> None:
        async def empty() -> MemoryJournal:
            return MemoryJournal()

        target = JournalTarget(MemoryJournal(), empty)
        layer = MemoryLayer(FakeClock(), CountingRandom())
        first = HALF.state.marks.position
        for blob in [
            *(envelope(sealed) for sealed in LOG[:4]),
            *seal_snapshot(describe(HALF.state), KEY),
            *(envelope(sealed) for sealed in LOG[first:]),
        ]:
            await layer.put(blob)
        await rebuild_from_layers([layer], (KEY.public,), target, lambda _: None)
        assert await target.journal.oldest() == first + 1
        assert list(await target.journal.read(first, 100)) == LOG[first:]

    asyncio.run(tell())


def journal_story(story: Callable[[MemoryJournal], object]) -> None:
    async def tell() -> None:
        journal = MemoryJournal()
        for place, sealed in enumerate(LOG):
            await journal.append(sealed, Position(place))
        await story(journal)

    asyncio.run(tell())


def test_a_journal_is_lived_through_again_up_to_a_position() -> None:
    async def story(journal: MemoryJournal) -> None:
        target = Target()
        await rebuild_from_journal(journal, target, lambda _: None)
        assert state_digest(target.state) == state_digest(WORLD.state)
        target = Target()
        await rebuild_from_journal(journal, target, lambda _: None, until=HALF.state.marks.position)
        assert state_digest(target.state) == state_digest(HALF.state)

    journal_story(story)


def test_a_trimmed_journal_needs_a_snapshot_to_begin_with() -> None:
    async def story(journal: MemoryJournal) -> None:
        await journal.trim(Position(15))
        with pytest.raises(JournalTrimmed):
            await rebuild_from_journal(journal, Target(), lambda _: None)
        target = Target()
        await rebuild_from_journal(journal, target, lambda _: None, base=describe(HALF.state))
        assert state_digest(target.state) == state_digest(WORLD.state)

    journal_story(story)
