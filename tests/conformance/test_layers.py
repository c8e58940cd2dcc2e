"""One suite for every availability layer: what was put is there, is itself, is in the list, and nothing else is.

Each layer is opened by a stage, which also knows how to do it harm: how to take the layer away, and how to change the
bytes it keeps. A layer with a server gets a real one, over loopback.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.ledger.stages import STAGES, Stage, open_stage
from weft.ledger.layer import Commitment, Cursor, Kept, Layer, LayerHealth, commit_to
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed, LayerRefused, LayerUnknown

Story = Callable[[Stage], Awaitable[None]]
Opener = Callable[[], AbstractAsyncContextManager[Stage]]
DEADLINE_S = 30.0
START = Cursor("")
HELLO = b"hello world"
HELLO_COMMITMENT = "644bcc7e564373040999aac89e7622f3ca71fba1d972fd94a31c3bfbf24e3938"


@pytest.fixture(params=STAGES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return lambda: open_stage(request.param, tmp_path)


def play(opener: Opener, story: Story) -> None:
    async def tell() -> None:
        async with asyncio.timeout(DEADLINE_S), opener() as stage:
            await story(stage)

    asyncio.run(tell())


async def read_all(
    layer: Layer, after: Cursor = START, count_max: int = 100, seen: Collection[Commitment] = ()
) -> AsyncIterator[Kept]:
    """As readers do: what comes again, as from a validator that was slow, is known by its commitment."""
    known = set(seen)
    while True:
        scan = await layer.scan(after, count_max)
        for kept in scan.kept:
            if kept.commitment not in known:
                known.add(kept.commitment)
                yield kept
        if scan.is_end:
            return
        assert scan.after != after, "a scan that is not at the end goes on"
        after = scan.after


async def commitments(layer: Layer, count_max: int = 100) -> list[Commitment]:
    return [kept.commitment async for kept in read_all(layer, count_max=count_max)]


def test_a_blob_has_the_same_commitment_in_every_layer_so_that_it_can_go_from_one_to_the_next(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        assert (await stage.layer.put(HELLO)).commitment == HELLO_COMMITMENT

    play(opener, story)


def test_a_blob_that_was_put_is_given_back(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        receipt = await stage.layer.put(HELLO)
        assert receipt.height >= 1
        assert await stage.layer.get(receipt.commitment) == HELLO

    play(opener, story)


def test_a_blob_that_was_never_put_is_missing(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(BlobMissing) as missing:
            await stage.layer.get(commit_to(b"never"))
        assert missing.value.layer == stage.layer.name

    play(opener, story)


def test_an_empty_layer_has_nothing_to_scan(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        assert await commitments(stage.layer) == []

    play(opener, story)


def test_a_scan_gives_back_every_blob_once_in_the_order_of_its_heights(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        receipts = [await stage.layer.put(b"blob %d" % number) for number in range(7)]
        found = [kept async for kept in read_all(stage.layer)]
        assert [kept.commitment for kept in found] == [receipt.commitment for receipt in receipts]
        assert [kept.blob for kept in found] == [b"blob %d" % number for number in range(7)]
        heights = [kept.height for kept in found]
        assert heights == sorted(heights)

    play(opener, story)


@pytest.mark.parametrize("count_max", [1, 2, 3])
def test_a_scan_in_small_steps_finds_what_one_step_finds(opener: Opener, count_max: int) -> None:
    async def story(stage: Stage) -> None:
        put = [(await stage.layer.put(b"blob %d" % number)).commitment for number in range(5)]
        assert await commitments(stage.layer, count_max) == put

    play(opener, story)


def test_a_scan_goes_on_behind_its_cursor_with_what_came_since(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        before = (await stage.layer.put(b"before")).commitment
        cursor = START
        while True:
            scan = await stage.layer.scan(cursor, 100)
            cursor = scan.after
            if scan.is_end:
                break
        put = (await stage.layer.put(b"since")).commitment
        assert [kept.commitment async for kept in read_all(stage.layer, cursor, seen=[before])] == [put]

    play(opener, story)


def test_a_blob_that_is_put_again_is_kept_once_and_has_its_first_height(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        first = await stage.layer.put(HELLO)
        await stage.layer.put(b"between")
        assert await stage.layer.put(HELLO) == first
        assert len(set(await commitments(stage.layer))) == 2

    play(opener, story)


def test_heights_grow(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        heights = [(await stage.layer.put(b"blob %d" % number)).height for number in range(4)]
        assert heights == sorted(set(heights))

    play(opener, story)


def test_puts_at_the_same_moment_are_all_kept(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        receipts = await asyncio.gather(*(stage.layer.put(b"blob %d" % number) for number in range(12)))
        assert sorted(await commitments(stage.layer)) == sorted(receipt.commitment for receipt in receipts)

    play(opener, story)


def test_the_largest_blob_is_taken_and_a_larger_one_refused_before_it_is_sent(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        largest = bytes(range(256)) * (stage.layer.blob_bytes_max // 256)
        assert await stage.layer.get((await stage.layer.put(largest)).commitment) == largest
        with pytest.raises(LayerRefused, match=str(stage.layer.blob_bytes_max)) as refusal:
            await stage.layer.put(largest + b"!")
        assert not refusal.value.temporary

    play(opener, story)


def test_every_layer_takes_blobs_of_one_size_so_that_none_keeps_what_the_primary_refuses(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        assert stage.layer.blob_bytes_max == 2 * 1024 * 1024

    play(opener, story)


def test_a_layer_that_is_well_says_so(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.layer.probe() is LayerHealth.HEALTHY

    play(opener, story)


def test_a_layer_that_is_away_is_unavailable_and_a_put_fails_in_time(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        await stage.take_away()
        assert await stage.layer.probe() is LayerHealth.UNAVAILABLE
        with pytest.raises(LayerFailed) as failure:
            await stage.layer.put(HELLO)
        assert failure.value.temporary
        assert failure.value.layer == stage.layer.name

    play(opener, story)


def test_a_scan_of_a_layer_that_is_away_fails_and_is_not_taken_for_an_empty_one(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        await stage.layer.put(HELLO)
        await stage.take_away()
        with pytest.raises(LayerFailed):
            await stage.layer.scan(START, 100)

    play(opener, story)


def test_a_layer_that_comes_back_has_what_was_put(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        receipt = await stage.layer.put(HELLO)
        await stage.take_away()
        await stage.bring_back()
        assert await stage.layer.get(receipt.commitment) == HELLO
        assert await commitments(stage.layer) == [receipt.commitment]
        assert await stage.layer.probe() is LayerHealth.HEALTHY

    play(opener, story)


def test_changed_bytes_are_never_given_back(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        receipt = await stage.layer.put(HELLO)
        other = await stage.layer.put(b"another")
        await stage.damage(receipt.commitment)
        with pytest.raises((BlobDamaged, BlobMissing)):
            await stage.layer.get(receipt.commitment)
        scan = await stage.layer.scan(START, 100)
        assert [kept.commitment for kept in scan.kept] == [other.commitment]
        assert list(scan.damaged) == [receipt.commitment]

    play(opener, story)


def test_a_put_whose_answer_was_lost_is_settled_by_putting_again(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        await stage.lose_next_answer()
        with pytest.raises(LayerFailed) as failure:
            await stage.layer.put(HELLO)
        assert isinstance(failure.value, LayerUnknown) is stage.scan_settles
        assert failure.value.commitment == HELLO_COMMITMENT
        await stage.hear_again()
        receipt = await stage.layer.put(HELLO)
        assert await commitments(stage.layer) == [receipt.commitment], "and it is there once"

    play(opener, story)


def test_a_cursor_of_another_layer_is_refused(opener: Opener) -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(LayerRefused, match="cursor"):
            await stage.layer.scan(Cursor("no such place"), 10)

    play(opener, story)
