"""The Celestia layer against the double of a node: outcomes nobody knows, strangers in the namespace, history that is
gone."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.stages import NAMESPACE, NODE_SECRET, CelestiaStage, SystemClock
from weft.ledger.envelope import Kind, Publisher, unwrap, wrap
from weft.ledger.layer import Cursor, LayerHealth, commit_to
from weft.ledger.layers import CelestiaLayer, RetryingLayer
from weft.ledger.layers.celestia.rpc import Meaning, meaning_of
from weft.model.errors import BlobDamaged, BlobMissing, BlobPruned, LayerFailed, LayerRefused, LayerUnknown
from weft.model.ids import ClusterId
from weft.model.policy import CELESTIA_HEIGHTS_AT_ONCE
from weft.receipts import Domain, SigningKey
from weft.testing.celestia import Fate, mint_token

DEADLINE_S = 30.0
BLOB = b"a batch"
START = Cursor("")
NAMESPACE_TEXT = base64.b64encode(NAMESPACE).decode()
STRANGER = SigningKey.from_secret(b"a stranger", Domain.PUBLISHER)


def play(tmp_path: Path, story: Callable[[CelestiaStage], Awaitable[None]], **how: int) -> None:
    async def tell() -> None:
        async with asyncio.timeout(DEADLINE_S):
            stage = CelestiaStage(tmp_path, **how)
            await stage.open()
            try:
                await story(stage)
            finally:
                await stage.close()

    asyncio.run(tell())


async def listed(layer: CelestiaLayer, after: Cursor = START) -> tuple[list[bytes], Cursor]:
    found: list[bytes] = []
    while True:
        scan = await layer.scan(after, 100)
        found += [kept.blob for kept in scan.kept]
        after = scan.after
        if scan.is_end:
            return found, after


async def post(stage: CelestiaStage, data: bytes, **other: object) -> int:
    """Somebody puts something into the namespace."""
    blob = {"namespace": NAMESPACE_TEXT, "data": base64.b64encode(data).decode(), "commitment": "", "share_version": 0}
    return await stage.chain.submit([{**blob, **other}])


def count_of(stage: CelestiaStage, method: str) -> int:
    return stage.node.calls[method]


def test_what_is_put_on_the_chain_is_signed(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        receipt = await stage.layer.put(BLOB)
        (blob,) = stage.chain.blobs(receipt.height)
        envelope = unwrap(base64.b64decode(blob["data"]), [stage.layer._publisher.public])
        assert (envelope.kind, envelope.payload) == (Kind.BLOB, BLOB)

    play(tmp_path, story)


def test_a_batch_goes_to_the_chain_in_its_own_envelope_and_comes_back_in_it(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        key = SigningKey.from_secret(b"the cluster of these tests", Domain.PUBLISHER)
        sealed = wrap(key, ClusterId(b"c" * 16), Kind.BATCH, 7, b"events")
        receipt = await stage.layer.put(sealed)
        assert base64.b64decode(stage.chain.blobs(receipt.height)[0]["data"]) == sealed
        assert (await listed(stage.layer))[0] == [sealed]

    play(tmp_path, story)


@pytest.mark.parametrize("fate", [Fate.TIMES_OUT_AND_LANDS, Fate.IN_MEMPOOL, Fate.DEADLINE])
def test_a_submission_that_timed_out_and_landed_is_found_and_not_sent_again(tmp_path: Path, fate: Fate) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.chain.fates.append(fate)
        receipt = await stage.layer.put(BLOB)
        assert stage.chain.blobs(receipt.height)
        assert count_of(stage, "blob.Submit") == 1
        assert (await listed(stage.layer))[0] == [BLOB]

    play(tmp_path, story)


def test_a_submission_that_is_lost_is_unknown_until_it_was_looked_for_and_then_sent_again(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.chain.fates.append(Fate.TIMES_OUT_AND_IS_LOST)
        with pytest.raises(LayerUnknown) as unknown:
            await stage.layer.put(BLOB)
        assert unknown.value.commitment == commit_to(BLOB)
        assert await stage.layer.probe() is LayerHealth.DEGRADED, "the last put failed"
        await stage.layer.put(BLOB)
        assert count_of(stage, "blob.Submit") == 2
        assert (await listed(stage.layer))[0] == [BLOB]
        assert await stage.layer.probe() is LayerHealth.HEALTHY

    play(tmp_path, story, timeout_ms=400)


@pytest.mark.parametrize("fate", [Fate.TIMES_OUT_AND_IS_LOST, Fate.TIMES_OUT_AND_LANDS])
def test_after_a_long_stop_the_look_for_a_lost_submission_goes_on_where_its_time_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: Fate
) -> None:
    async def story(stage: CelestiaStage) -> None:
        dying = stage.new_layer("shared", timeout_ms=200)
        stage.chain.fates.append(fate)
        stage.stand_still()
        with pytest.raises(LayerUnknown):
            await dying.put(BLOB)
        await dying.close()
        for _ in range(10 * CELESTIA_HEIGHTS_AT_ONCE):
            stage.chain.produce()
        reborn = stage.new_layer("shared")
        blobs, left = reborn._node.blobs, 0

        async def so_many(heights: Sequence[int], timeout_ms: int) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise LayerFailed("there was no time left")
            return await blobs(heights, timeout_ms)

        monkeypatch.setattr(reborn._node, "blobs", so_many)
        stage.go_on()
        tries = 0
        while tries < 10:
            tries, left = tries + 1, 4
            try:
                await reborn.put(BLOB)
                break
            except LayerFailed:
                continue
        assert tries <= 4
        assert count_of(stage, "blob.Submit") == (2 if fate is Fate.TIMES_OUT_AND_IS_LOST else 1)
        assert (await listed(stage.layer))[0] == [BLOB]
        await reborn.close()

    play(tmp_path, story)


def test_a_process_that_died_between_submitting_and_hearing_looks_before_it_submits_again(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        dying = stage.new_layer("shared", timeout_ms=200)
        stage.chain.fates.append(Fate.TIMES_OUT_AND_LANDS)
        stage.stand_still()
        with pytest.raises(LayerUnknown):
            await dying.put(BLOB)
        await dying.close()
        stage.go_on()
        reborn = stage.new_layer("shared")
        await reborn.put(BLOB)
        assert count_of(stage, "blob.Submit") == 1
        await asyncio.sleep(0.1)
        assert (await listed(reborn))[0] == [BLOB]
        await reborn.close()

    play(tmp_path, story)


def test_a_node_that_reads_well_and_includes_nothing_becomes_unavailable_and_comes_back_by_itself(
    tmp_path: Path,
) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.layer._stuck_ms = 500
        stage.chain.fates.extend([Fate.TIMES_OUT_AND_IS_LOST] * 2)
        with pytest.raises(LayerUnknown):
            await stage.layer.put(BLOB)
        assert await stage.layer.probe() is LayerHealth.DEGRADED
        seen = []
        while not seen or seen[-1] is not LayerHealth.HEALTHY:
            seen.append(await stage.layer.probe())
            await asyncio.sleep(0.05)
        assert LayerHealth.UNAVAILABLE in seen
        assert (await listed(stage.layer))[0] == [BLOB]

    play(tmp_path, story, timeout_ms=300)


@pytest.mark.parametrize("fate", [Fate.WRONG_SEQUENCE, Fate.EVICTED, Fate.REJECTED])
def test_what_the_chain_certainly_did_not_take_is_tried_again(tmp_path: Path, fate: Fate) -> None:
    async def story(stage: CelestiaStage) -> None:
        layer = RetryingLayer(stage.layer, SystemClock(), retry_count=3, retry_delay_ms=5, timeout_ms=5_000)
        stage.chain.fates.extend([fate] * 3)
        await layer.put(BLOB)
        assert (layer.retried_count, count_of(stage, "blob.Submit")) == (3, 4)

    play(tmp_path, story)


def test_after_so_many_retries_the_failure_is_the_callers(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        layer = RetryingLayer(stage.layer, SystemClock(), retry_count=3, retry_delay_ms=1, timeout_ms=5_000)
        stage.chain.fates.extend([Fate.EVICTED] * 5)
        with pytest.raises(LayerFailed, match="evicted") as failure:
            await layer.put(BLOB)
        assert not isinstance(failure.value, LayerUnknown)
        assert count_of(stage, "blob.Submit") == 4

    play(tmp_path, story)


def test_a_token_that_is_not_the_nodes_is_refused_and_not_tried_again(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        stranger = stage.new_layer("other", token=mint_token(b"another node", "public", "read", "write"))
        layer = RetryingLayer(stranger, SystemClock(), retry_count=3, retry_delay_ms=1, timeout_ms=5_000)
        with pytest.raises(LayerRefused, match="401"):
            await layer.put(BLOB)
        assert layer.retried_count == 0
        assert await layer.probe() is LayerHealth.UNAVAILABLE
        await layer.close()

    play(tmp_path, story)


def test_a_token_that_may_only_read_puts_nothing_and_says_what_it_lacks(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        reader = stage.new_layer("other", token=mint_token(NODE_SECRET, "public", "read"))
        with pytest.raises(LayerRefused, match="need 'write'"):
            await reader.put(BLOB)
        assert await reader.probe() is LayerHealth.UNAVAILABLE, "it reads well, and no put would work"
        await stage.layer.put(BLOB)
        assert (await listed(reader))[0] == [BLOB]
        await reader.close()

    play(tmp_path, story)


@pytest.mark.parametrize("status", [429, 503])
def test_a_node_that_is_too_busy_did_nothing(tmp_path: Path, status: int) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.node.status = status
        with pytest.raises(LayerFailed, match=str(status)) as failure:
            await stage.layer.put(BLOB)
        assert failure.value.temporary
        assert not isinstance(failure.value, LayerUnknown)
        assert await stage.layer.probe() is LayerHealth.UNAVAILABLE

    play(tmp_path, story)


def test_puts_that_come_while_a_block_is_waited_for_share_the_next_transaction(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        receipts = await asyncio.gather(*(stage.layer.put(b"blob %d" % number) for number in range(20)))
        assert len({receipt.commitment for receipt in receipts}) == 20
        assert count_of(stage, "blob.Submit") <= 3

    play(tmp_path, story)


def test_what_others_put_into_the_namespace_is_counted_and_skipped(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        ours = stage.layer._publisher
        forged = bytearray(Publisher(STRANGER).outer(b"as if it were ours"))
        forged[32:64] = ours.public
        for data in (b"spam", Publisher(STRANGER).outer(b"theirs"), bytes(forged), ours.outer(BLOB)[:-1]):
            await post(stage, data)
        await post(stage, b"of a version to come", share_version=2)
        await post(stage, b"of a signer", share_version=1, signer=base64.b64encode(bytes(20)).decode())
        await stage.layer.put(BLOB)
        scan = await stage.layer.scan(START, 100)
        assert [kept.blob for kept in scan.kept] == [BLOB]
        assert scan.foreign_count == 6
        assert list(scan.damaged) == []

    play(tmp_path, story)


def test_a_blob_of_ours_that_somebody_posts_again_is_the_same_blob(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        receipt = await stage.layer.put(BLOB)
        await post(stage, stage.layer._publisher.outer(BLOB))
        scan = await stage.layer.scan(START, 100)
        assert {kept.commitment for kept in scan.kept} == {receipt.commitment}
        assert await stage.layer.put(BLOB) == receipt

    play(tmp_path, story)


def test_a_node_that_lies_about_bytes_is_not_believed_and_the_archive_has_them(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        receipt = await stage.layer.put(BLOB)
        place = await stage.layer._archive.place_of(receipt.commitment)
        assert place is not None
        stage.lie(place.height, place.mark)
        assert await stage.layer.get(receipt.commitment) == BLOB
        assert (await listed(stage.layer))[0] == [BLOB]
        stage.archive_file("archive", receipt.commitment).unlink()
        with pytest.raises((BlobMissing, BlobDamaged)):
            await stage.layer.get(receipt.commitment)

    play(tmp_path, story)


def test_another_coordinator_without_an_archive_finds_every_blob(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        blobs = [b"blob %d" % number for number in range(5)]
        receipts = [await stage.layer.put(blob) for blob in blobs]
        other = stage.new_layer("other")
        assert await other.get(receipts[3].commitment) == blobs[3]
        assert (await listed(other))[0] == blobs
        await other.close()

    play(tmp_path, story)


def test_what_the_node_has_pruned_comes_from_the_archive_in_its_place(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        blobs = [b"blob %d" % number for number in range(6)]
        receipts = [await stage.layer.put(blob) for blob in blobs]
        await stage.archived()
        stage.chain.prune(receipts[3].height)
        assert await stage.layer.get(receipts[0].commitment) == blobs[0]
        assert (await listed(stage.layer))[0] == blobs
        after, in_steps = START, []
        while len(in_steps) < len(blobs):
            scan = await stage.layer.scan(after, 1)
            in_steps += [kept.blob for kept in scan.kept]
            after = scan.after
        assert in_steps == blobs

    play(tmp_path, story)


def test_what_was_pruned_and_is_in_no_archive_is_named_by_its_height(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        receipt = await stage.layer.put(BLOB)
        await stage.layer.put(b"another")
        stage.chain.prune(receipt.height + 1)
        stage.archive_file("archive", receipt.commitment).unlink()
        with pytest.raises(BlobPruned) as pruned:
            await stage.layer.get(receipt.commitment)
        assert pruned.value.height == receipt.height
        scan = await stage.layer.scan(START, 100)
        assert list(scan.damaged) == [receipt.commitment], "it was there, and is not: whoever rebuilds is told"

    play(tmp_path, story)


def test_history_is_never_skipped_a_reader_that_fell_behind_the_tail_is_told_where(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        reader = stage.new_layer("reader")
        await stage.layer.put(b"seen by the reader")
        _, cursor = await listed(reader)
        await stage.layer.put(b"missed by the reader")
        last = await stage.layer.put(b"after the tail")
        await stage.archived()
        stage.chain.prune(last.height)
        with pytest.raises(BlobPruned) as pruned:
            await reader.scan(cursor, 100)
        assert pruned.value.height == int(cursor.partition(":")[0])
        found, _ = await listed(stage.layer, cursor)
        assert found == [b"missed by the reader", b"after the tail"], "who kept it gives it"
        await reader.close()

    play(tmp_path, story)


def test_a_scan_from_the_beginning_tells_of_a_hole_between_the_archive_and_the_tail(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        reader = stage.new_layer("reader")
        await stage.layer.put(b"seen by the reader")
        _, cursor = await listed(reader)
        await stage.layer.put(b"missed by the reader")
        last = await stage.layer.put(b"after the tail")
        await stage.archived()
        stage.chain.prune(last.height)
        scan = await reader.scan(START, 100)
        assert ([kept.blob for kept in scan.kept], scan.is_end) == ([b"seen by the reader"], False)
        with pytest.raises(BlobPruned) as pruned:
            await reader.scan(scan.after, 100)
        assert pruned.value.height == int(cursor.partition(":")[0])
        found, _ = await listed(reader, Cursor(str(pruned.value.facts["after"])))
        assert found == [b"after the tail"]
        # A reader that never read anything begins with the oldest there is.
        fresh = stage.new_layer("fresh")
        assert (await listed(fresh))[0] == [b"after the tail"]
        await reader.close()
        await fresh.close()

    play(tmp_path, story)


def test_no_history_is_skipped_by_a_reader_that_is_more_than_a_thousand_heights_behind(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        first = await stage.layer.put(b"long ago")
        for _ in range(1_200):
            stage.chain.produce()
        last = await stage.layer.put(b"just now")
        assert last.height > first.height + 1_200
        reader = stage.new_layer("reader")
        assert (await listed(reader))[0] == [b"long ago", b"just now"]
        await reader.close()

    play(tmp_path, story)


def test_two_who_put_the_same_blob_at_once_pay_once(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        first, second = await asyncio.gather(stage.layer.put(BLOB), stage.layer.put(BLOB))
        assert first == second
        assert len(stage.chain.blobs(first.height)) == 1

    play(tmp_path, story)


def test_a_put_that_is_given_up_ends_at_once_and_the_blob_may_still_land(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.stand_still()
        putting = asyncio.create_task(stage.layer.put(BLOB))
        while not count_of(stage, "blob.Submit"):  # noqa: ASYNC110 — the double has no event for it.
            await asyncio.sleep(0.005)
        putting.cancel()
        await asyncio.wait({putting}, timeout=1)
        assert putting.cancelled()
        stage.go_on()
        await stage.layer.put(BLOB)
        assert count_of(stage, "blob.Submit") == 1

    play(tmp_path, story)


def test_a_network_that_was_begun_anew_is_given_what_it_has_forgotten(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        await stage.layer.put(BLOB)
        stage.chain._blobs.clear()
        receipt = await stage.layer.put(BLOB)
        assert stage.chain.blobs(receipt.height)
        assert await stage.layer.put(BLOB) == receipt

    play(tmp_path, story)


def test_a_node_that_syncs_is_unavailable_and_one_that_is_slow_is_degraded(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        stage.node.is_syncing = True
        assert await stage.layer.probe() is LayerHealth.UNAVAILABLE
        stage.node.is_syncing = False
        assert await stage.layer.probe() is LayerHealth.HEALTHY
        stage.node.latency_ms = 1_050
        assert await stage.layer.probe() is LayerHealth.DEGRADED

    play(tmp_path, story)


def test_an_archive_that_lost_its_index_finds_its_places_again(tmp_path: Path) -> None:
    async def story(stage: CelestiaStage) -> None:
        await stage.layer.put(BLOB)
        await stage.layer.close()
        for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
            (tmp_path / "archive" / name).unlink(missing_ok=True)
        stage.layer = stage.new_layer("archive")
        assert await stage.layer.get(commit_to(BLOB)) == BLOB

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("code", "sentence", "meaning"),
    [
        (1, "timed out waiting for tx to be included in a block", Meaning.UNKNOWN),
        (1, "broadcast tx error: tx already in mempool", Meaning.UNKNOWN),
        (1, "context deadline exceeded", Meaning.UNKNOWN),
        (1, "account sequence mismatch, expected 1, got 0: incorrect account sequence", Meaning.NOTHING_HAPPENED),
        (1, "blob: over size limit", Meaning.REFUSED),
        (-32700, "request bigger than maximum 16777216 allowed", Meaning.REFUSED),
        (1, "tx with hash AB was evicted from the mempool", Meaning.NOTHING_HAPPENED),
        (1, "tx with hash AB was rejected by the node with execution code 11", Meaning.NOTHING_HAPPENED),
        (1, "header: given height is from the future: networkHeight: 1, requestedHeight: 2", Meaning.FUTURE),
        (1, "header: syncing in progress: localHeadHeight: 1, requestedHeight: 2", Meaning.NOTHING_HAPPENED),
        (1, "requested header (1) is below Tail (2)", Meaning.PRUNED),
        (1, "blob: not found", Meaning.NOT_FOUND),
        (1, "share: data not available", Meaning.NOTHING_HAPPENED),
        (1, "missing permission to invoke 'GetAll' (need 'read')", Meaning.REFUSED),
        (-32601, "method 'da.Submit' not found", Meaning.REFUSED),
        (0, "fatal error calling 'blob.Submit': panic", Meaning.UNKNOWN),
        (1, "a sentence nobody has read before", Meaning.UNKNOWN),
    ],
)
def test_a_nodes_sentence_has_one_meaning(code: int, sentence: str, meaning: Meaning) -> None:
    assert meaning_of(code, sentence) is meaning
