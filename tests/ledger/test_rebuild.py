"""Rebuilding: the same state from the journal, from layers in any order, and from a snapshot; damage is named."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from tests.worlds import SECRET, CountingRandom, FakeClock, World, node
from weft.core.snapshot import describe, snapshot_bytes
from weft.core.state import state_digest
from weft.ledger import MemoryJournal
from weft.ledger.envelope import Kind, unwrap, wrap
from weft.ledger.layer import Cursor, Scan
from weft.ledger.layers import MemoryLayer
from weft.ledger.rebuild import (
    JournalTarget,
    Progress,
    Target,
    _Assembly,
    rebuild_from_journal,
    rebuild_from_layers,
)
from weft.ledger.snapshot import seal_snapshot
from weft.model.batch import SealedBatch
from weft.model.commands import OpenTerm
from weft.model.errors import BlobPruned, JournalDamaged, JournalTrimmed
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


class Holed(MemoryLayer):
    """Has let go of what was first, and says so."""

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        if not after:
            raise BlobPruned("gone", layer=self.name, after=str(5))
        return await super().scan(after, count_max)


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_hole_a_layer_tells_of_is_passed_by_a_snapshot_or_shows_in_the_positions(has_snapshot: bool) -> None:
    async def tell() -> None:
        layer, target = Holed(FakeClock(), CountingRandom()), Target()
        for blob in [*blobs_of(LOG), *(seal_snapshot(describe(HALF.state), KEY) if has_snapshot else ())]:
            await layer.put(blob)
        await rebuild_from_layers([layer], (KEY.public,), target, lambda _: None)
        assert state_digest(target.state) == state_digest(WORLD.state)

    if has_snapshot:
        asyncio.run(tell())
        return
    with pytest.raises(JournalDamaged) as damage:
        asyncio.run(tell())
    assert damage.value.position == 1


@pytest.mark.parametrize("restarts", [0, 4])
def test_a_snapshot_of_the_branch_that_was_given_up_takes_nobody_back_to_it(restarts: int) -> None:
    fork, given_up, lived_on = forked(6, 2, restarts=restarts)
    pieces = seal_snapshot(describe(given_up.state), KEY)
    one, other = blobs_of(given_up.log), blobs_of(lived_on.log)
    contents = [[[*one, *pieces], other], [other, [*pieces, *one[fork:]]]]
    if not restarts:
        # The term alone says that it does not go on from here.
        contents.append([[*other, *pieces]])
    for content in contents:
        target, _ = rebuild(*content)
        assert state_digest(target.state) == state_digest(lived_on.state)


def test_snapshots_the_rebuild_has_passed_are_not_held_in_memory() -> None:
    async def tell() -> None:
        target = Target()
        assembly = _Assembly(target, None, {}, Position(0))
        pieces = [unwrap(piece, (KEY.public,)) for piece in seal_snapshot(describe(HALF.state), KEY)]
        for piece in pieces:
            assembly.offer(piece)
        assert assembly._pieces
        for sealed in LOG:
            assembly.offer(unwrap(envelope(sealed), (KEY.public,)))
        await assembly.go_on()
        for piece in pieces:
            assembly.offer(piece)
        assert not assembly._pieces
        await assembly.finish("memory")
        assert state_digest(target.state) == state_digest(WORLD.state)

    asyncio.run(tell())


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


def forked(given_up_count: int, lived_on_count: int, *, restarts: int = 0) -> tuple[int, World, World]:
    """A log that was given up after a position, and the one that was lived on with from there, in a later term."""
    given_up, lived_on = lived(3), lived(3)
    fork = len(given_up.log)
    for number in range(given_up_count):
        given_up.do(node(f"given-up-{number}"))
        if number < restarts:
            given_up.do(OpenTerm(writer=f"restart-{number}", address=""))
    lived_on.do(OpenTerm(writer="again", address=""))
    for number in range(lived_on_count):
        lived_on.do(node(f"lived-on-{number}"))
    return fork, given_up, lived_on


def blobs_of(log: Sequence[SealedBatch]) -> list[bytes]:
    return [envelope(sealed) for sealed in log]


@pytest.mark.parametrize("restarts", [0, 4])
@pytest.mark.parametrize(("given_up_count", "lived_on_count"), [(1, 0), (6, 2), (2, 6), (5, 0), (4, 4)])
def test_a_branch_that_was_followed_when_the_later_one_came_to_light_is_left_again(
    given_up_count: int, lived_on_count: int, restarts: int
) -> None:
    fork, given_up, lived_on = forked(given_up_count, lived_on_count, restarts=restarts)
    one, other = blobs_of(given_up.log), blobs_of(lived_on.log)
    for contents in ([one, other], [other, one], [one, other[fork:]], [one[:-1], shuffled(other, 5), one[-1:]]):
        target, told = rebuild(*contents)
        assert state_digest(target.state) == state_digest(lived_on.state)
        assert told[-1].position == lived_on.state.marks.position


def test_a_branch_whose_first_batch_is_missing_is_refused_by_its_position_and_not_passed_over() -> None:
    fork, given_up, lived_on = forked(6, 3)
    with pytest.raises(JournalDamaged, match="another branch") as damage:
        rebuild(blobs_of(given_up.log), blobs_of(lived_on.log[fork + 1 :]))
    assert damage.value.position == fork + 1


def test_what_is_left_of_a_branch_that_lost_stops_nobody() -> None:
    fork, given_up, lived_on = forked(6, 3, restarts=5)
    for rest in (given_up.log[fork : fork + 2], given_up.log[fork:]):
        target, _ = rebuild(blobs_of(lived_on.log), blobs_of(rest))
        assert state_digest(target.state) == state_digest(lived_on.state)


def test_a_rival_of_the_same_term_that_comes_to_light_late_counts_where_the_log_goes_on_from_it() -> None:
    never = lived(3)
    never.do(node("never-committed"))
    rival, position = never.log[-1], never.log[-1].batch.position
    for contents in ([[envelope(rival)], blobs_of(LOG)], [blobs_of(never.log), blobs_of(LOG)]):
        target, _ = rebuild(*contents)
        assert state_digest(target.state) == state_digest(WORLD.state)
    with pytest.raises(JournalDamaged, match="two batches claim") as damage:
        rebuild(blobs_of(never.log), blobs_of(LOG[:position]))
    assert damage.value.position == position
    never.do(node("and-on"))
    with pytest.raises(JournalDamaged, match="two batches claim") as damage:
        rebuild(blobs_of(never.log), blobs_of(LOG))
    assert damage.value.position == position


def test_a_batch_beside_a_snapshot_that_says_otherwise_is_no_reason_to_guess() -> None:
    _, given_up, lived_on = forked(2, 2)
    pieces = seal_snapshot(describe(lived_on.state), KEY)
    target, _ = rebuild(pieces, blobs_of(given_up.log[-1:]))
    assert state_digest(target.state) == state_digest(lived_on.state)


def test_a_log_is_forked_twice_and_ends_on_what_was_lived_on_with() -> None:
    first, second, third = lived(3), lived(3), lived(3)
    first.do(node("first"))
    for world in (second, third):
        world.do(OpenTerm(writer="second", address=""))
        world.do(node("second"))
    second.do(node("given-up-too"))
    third.do(OpenTerm(writer="third", address=""))
    target, _ = rebuild(blobs_of(first.log), blobs_of(second.log), blobs_of(third.log))
    assert state_digest(target.state) == state_digest(third.state)


def test_a_journal_that_was_given_another_branch_is_thrown_away_and_what_was_chosen_needs_no_second_look() -> None:
    _, given_up, lived_on = forked(5, 2)
    emptied: list[MemoryJournal] = []

    async def tell() -> None:
        async def empty() -> MemoryJournal:
            emptied.append(MemoryJournal())
            return emptied[-1]

        layers = [MemoryLayer(FakeClock(), CountingRandom()) for _ in range(2)]
        for layer, world in zip(layers, (given_up, lived_on), strict=True):
            for blob in blobs_of(world.log):
                await layer.put(blob)
        target = JournalTarget(MemoryJournal(), empty)
        chosen = await rebuild_from_layers(layers, (KEY.public,), target, lambda _: None)
        assert list(await target.journal.read(Position(0), 100)) == lived_on.log
        assert len(emptied) == 1
        again = JournalTarget(MemoryJournal(), empty)
        await rebuild_from_layers(layers, (KEY.public,), again, lambda _: None, chosen=chosen)
        assert list(await again.journal.read(Position(0), 100)) == lived_on.log
        assert len(emptied) == 1, "what others reach is given the log once"

    asyncio.run(tell())


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
