"""Batches that no layer takes whole: they go in parts, come back as one, and what never goes is listed and said."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from tests.ledger.lab import KEY, POLICY, Lab, live
from tests.ledger.stages import CelestiaStage, open_stage
from tests.ledger.test_rebuild import rebuild
from tests.worlds import World, node
from weft.coordinator.app import Limits
from weft.core.state import state_digest
from weft.ledger.envelope import Kind, unwrap, wrap
from weft.ledger.layer import LayerHealth, Receipt, commit_to
from weft.ledger.layers import MemoryLayer
from weft.ledger.parts import PARTED_BYTES_MIN, PartTray, find_blob, wrap_batch
from weft.ledger.rebuild import Target, rebuild_from_layers
from weft.ledger.snapshot import Piece
from weft.model.availability import Role, Standing
from weft.model.batch import SealedBatch, seal
from weft.model.canonical import canonical_bytes
from weft.model.errors import BlobTooLarge, JournalDamaged, NotAvailableYet
from weft.model.ids import Position
from weft.model.policy import CELESTIA_BLOB_BYTES_MIN, LAYER_BLOB_BYTES_MAX
from weft.testing.celestia import methods

P, S = Role.PRIMARY, Role.SECONDARY
LIMIT_BYTES = 2_000
QUICK = Limits(sweep_ms=3_600_000, available_ms_max=2_000, append_ms_max=1_000)


def grown() -> World:
    """A log whose third batch is far larger than `LIMIT_BYTES`."""
    world = World.founded()
    world.do(node("0"))
    world.batch(*(node(f"n{number}") for number in range(40)))
    world.do(node("last"))
    return world


def largest(log: list[SealedBatch]) -> SealedBatch:
    return max(log, key=lambda sealed: len(sealed.body))


WORLD = grown()
LARGE = largest(WORLD.log)
PARTS = wrap_batch(KEY, LARGE, LIMIT_BYTES)


def test_a_batch_that_is_too_large_goes_in_signed_parts_each_within_the_limit_and_comes_back_as_one() -> None:
    assert len(PARTS) > 2
    assert max(len(part) for part in PARTS) <= LIMIT_BYTES
    assert wrap_batch(KEY, LARGE, LIMIT_BYTES) == PARTS, "the same batch, the same bytes"
    mixed = PARTS[:]
    random.Random(3).shuffle(mixed)
    tray = PartTray()
    opened = [unwrap(part, (KEY.public,)) for part in mixed]
    assert {(one.kind, one.sequence) for one in opened} == {(Kind.PART, LARGE.batch.position)}
    found = [tray.add(one) for one in [opened[0], *opened]]
    assert found[:-1] == [None] * len(mixed)
    assert found[-1] == LARGE


def test_a_batch_that_fits_is_one_envelope_as_ever() -> None:
    small = WORLD.log[0]
    assert wrap_batch(KEY, small, LIMIT_BYTES) == [
        wrap(KEY, small.batch.cluster_id, Kind.BATCH, small.batch.position, small.body)
    ]


def test_parts_that_do_not_make_the_batch_they_name_are_damage() -> None:
    opened = [unwrap(part, (KEY.public,)) for part in PARTS]
    piece = msgspec.msgpack.decode(opened[0].payload, type=Piece)
    other = canonical_bytes(msgspec.structs.replace(piece, body=bytes(len(piece.body))))
    tray = PartTray()
    for one in opened[1:]:
        tray.add(one)
    with pytest.raises(JournalDamaged, match=f"position {LARGE.batch.position}"):
        tray.add(msgspec.structs.replace(opened[0], payload=other))
    for wrong in (b"no piece", canonical_bytes(msgspec.structs.replace(piece, index=piece.count))):
        with pytest.raises(JournalDamaged):
            PartTray().add(msgspec.structs.replace(opened[0], payload=wrong))


def test_a_rebuild_follows_parts_in_any_order_and_names_the_position_of_a_missing_one() -> None:
    blobs = [blob for sealed in WORLD.log for blob in wrap_batch(KEY, sealed, LIMIT_BYTES)]
    for seed in range(3):
        mixed = blobs[:]
        random.Random(seed).shuffle(mixed)
        target, _ = rebuild(mixed)
        assert state_digest(target.state) == state_digest(WORLD.state)
    with pytest.raises(JournalDamaged) as damage:
        rebuild([blob for blob in blobs if blob != PARTS[1]])
    assert damage.value.position == LARGE.batch.position


def test_parts_of_two_sizes_beside_each_other_are_one_batch() -> None:
    smaller = wrap_batch(KEY, LARGE, LIMIT_BYTES // 2)
    rest = [blob for sealed in WORLD.log if sealed != LARGE for blob in wrap_batch(KEY, sealed, LIMIT_BYTES)]
    target, _ = rebuild([*PARTS[:2], *smaller, *rest])
    assert state_digest(target.state) == state_digest(WORLD.state)


def test_parts_of_two_cuts_that_are_as_many_give_their_batch_in_whatever_order_they_are_met() -> None:
    other = wrap_batch(KEY, LARGE, LIMIT_BYTES - 40)
    assert len(other) == len(PARTS) > 2
    assert other[:-1] != PARTS[:-1]
    opened = [[unwrap(part, (KEY.public,)) for part in cut] for cut in (PARTS, other)]
    last = len(PARTS) - 1
    for one, two in (opened, opened[::-1]):
        tray = PartTray()
        # Of one cut all but the last part, which that of the other seems to be; then the other's.
        for part in two[:last]:
            assert tray.add(part) is None
        with pytest.raises(JournalDamaged, match="another batch"):
            tray.add(one[last])
        assert [tray.add(part) for part in one[:last]] == [None] * (last - 1) + [LARGE]
        mixed = [part for pair in zip(one, reversed(two), strict=True) for part in pair]
        tray = PartTray()
        assert LARGE in [tray.add(part) for part in mixed]
    rest = [blob for sealed in WORLD.log if sealed != LARGE for blob in wrap_batch(KEY, sealed, LIMIT_BYTES)]
    target, _ = rebuild([*other[:last], PARTS[last], *PARTS[:last], *rest])
    assert state_digest(target.state) == state_digest(WORLD.state)


def test_a_blob_of_a_batch_is_found_again_however_it_was_cut() -> None:
    for blob in (*PARTS, wrap(KEY, LARGE.batch.cluster_id, Kind.BATCH, LARGE.batch.position, LARGE.body)):
        assert find_blob(KEY, LARGE, commit_to(blob), LIMIT_BYTES) == blob
    rival = seal(msgspec.structs.replace(LARGE.batch, at_ms=LARGE.batch.at_ms + 1))
    assert find_blob(KEY, rival, commit_to(PARTS[0]), LIMIT_BYTES) is None


async def with_a_large_batch(lab: Lab, limit_bytes: int, count: int = 40) -> Position:
    """A log that has a batch no layer takes, because it was written before there was such a limit."""
    await lab.serve(POLICY, QUICK)
    await lab.found()
    for layer in lab.layers.values():
        layer.is_down = True
    await asyncio.gather(*(lab.register(number) for number in range(count)), return_exceptions=True)
    await lab.kill()
    for layer in lab.layers.values():
        layer.is_down, layer.blob_bytes_max = False, limit_bytes  # type: ignore[misc]
    log = list(await lab.journal.read(Position(0), 1_000))
    assert len(largest(log).body) > limit_bytes
    return largest(log).batch.position


async def rebuilt(lab: Lab, *roles: Role) -> bool:
    """Whether layers give the state that is lived in."""
    target = Target()
    await rebuild_from_layers([lab.layers[role] for role in roles], (KEY.public,), target, lambda _: None)
    return state_digest(target.state).hex() == lab.digest()


def test_a_log_with_a_batch_larger_than_a_blob_is_shipped_in_parts_and_rebuilt_from_them(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        large = await with_a_large_batch(lab, LIMIT_BYTES)
        await lab.serve()
        await lab.register(100)
        kinds = [unwrap(blob, [KEY.public]) for _, blob in lab.primary._blobs]
        parts = [one for one in kinds if one.kind is Kind.PART]
        assert len(parts) > 2
        assert {one.sequence for one in parts} == {large}
        assert lab.positions(P) == [
            position for position in range(1, await lab.journal.tail() + 1) if position != large
        ]
        assert await rebuilt(lab, P)
        assert (await lab.availability.compare()).details == ()
        kept = lab.kept(P)
        await lab.kill()
        await lab.serve()
        await lab.register(101)
        assert lab.kept(P)[: len(kept)] == kept
        assert len(lab.kept(P)) == len(kept) + 2, "the term and the write, and no part again"

    live(story, roles=[P], directory=tmp_path)


def test_parts_a_fallback_took_come_home_and_make_one_batch(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        large = await with_a_large_batch(lab, LIMIT_BYTES)
        lab.primary.is_down = True
        await lab.serve()
        await lab.availability.board.until(lambda now: now.unshipped == 0)
        listed = [blob.position for blob in await lab.availability.pending.read(0, 100)]
        assert listed.count(large) > 2
        lab.primary.is_down = False
        await lab.availability.board.until(lambda now: now.standing is Standing.HEALTHY)
        await lab.register(100)
        assert await rebuilt(lab, P)
        assert (await lab.availability.compare()).details == ()

    live(story, roles=[P, S], directory=tmp_path)


def test_a_batch_a_fallback_took_whole_comes_home_in_parts_to_a_primary_that_takes_less(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.serve(POLICY)
        await lab.found()
        lab.primary.is_down = True
        await lab.availability.board.until(lambda now: now.standing is Standing.DEGRADED)
        await asyncio.gather(*(lab.register(number) for number in range(40)))
        lab.primary.is_down, lab.primary.blob_bytes_max = False, LIMIT_BYTES  # type: ignore[misc]
        await lab.availability.board.until(lambda now: now.standing is Standing.HEALTHY)
        assert (lab.availability.pending.count, lab.availability.pending.stuck_count) == (0, 0)
        assert await rebuilt(lab, P)

    live(story, roles=[P, S], directory=tmp_path)


def test_a_batch_no_layer_ever_takes_is_stuck_and_listed_and_what_comes_after_it_is_shipped(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        large = await with_a_large_batch(lab, PARTED_BYTES_MIN - 1)
        await lab.serve()
        with pytest.raises(NotAvailableYet, match=f"no layer takes the batch at position {large}"):
            await lab.register(100)
        tail = await lab.journal.tail()
        assert lab.positions(P) == [position for position in range(1, tail + 1) if position != large]
        (stuck,) = await lab.availability.pending.read(0, 10, is_stuck=True)
        assert (stuck.position, stuck.source, stuck.is_stuck) == (large, P, True)
        assert "at most" in str(stuck.last_error)
        assert "no layer takes it" in lab.log.getvalue()
        # The next life knows it from the list, and does not try it again by itself.
        await lab.kill()
        await lab.serve()
        await lab.availability.board.until(lambda now: now.standing is Standing.RECOVERING)
        with pytest.raises(NotAvailableYet):
            await lab.register(101)
        # A person has it tried again once a layer takes it, and from then on answers mean what they say.
        lab.primary.blob_bytes_max = 2**20  # type: ignore[misc]
        report = await lab.availability.reconciler.reconcile()
        assert (report.success, report.stuck) == (True, 0)
        await lab.register(102)
        assert await rebuilt(lab, P)

    live(story, roles=[P], directory=tmp_path)


def test_the_report_is_green_however_a_batch_was_cut_when_it_was_put(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await with_a_large_batch(lab, CELESTIA_BLOB_BYTES_MIN, count=600)
        await lab.serve()
        await lab.register(1_000)
        # As after a restart: the layer is taken to take more, until it says otherwise.
        lab.primary.blob_bytes_max = LAYER_BLOB_BYTES_MAX  # type: ignore[misc]
        report = await lab.availability.compare()
        assert (report.details, report.verified) == ((), await lab.journal.tail())
        part = next(blob for blob in lab.primary._blobs if unwrap(blob[1], [KEY.public]).kind is Kind.PART)
        lab.primary.damage(part[0], b"something else")
        assert (await lab.availability.compare()).details != ()

    live(story, roles=[P], directory=tmp_path)


def test_a_node_behind_a_smaller_limit_is_given_smaller_blobs_and_is_not_taken_for_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_bytes = 300_000
    monkeypatch.setattr(methods, "TRANSACTION_BYTES_MAX", limit_bytes)

    async def story() -> None:
        async with open_stage("celestia", tmp_path) as stage:
            assert isinstance(stage, CelestiaStage)
            with pytest.raises(BlobTooLarge):
                await stage.layer.put(bytes(2 * limit_bytes))
            assert limit_bytes < stage.layer.blob_bytes_max < 2 * limit_bytes
            with pytest.raises(BlobTooLarge):
                await stage.layer.put(bytes(stage.layer.blob_bytes_max - 1_000))
            assert stage.layer.blob_bytes_max <= limit_bytes
            assert await stage.layer.probe() is not LayerHealth.UNAVAILABLE
            # Those that come together are one transaction, which may be too large when none of them is.
            blobs = [bytes([number]) * 100_000 for number in range(8)]
            receipts = await asyncio.gather(*(stage.layer.put(blob) for blob in blobs))
            assert [await stage.layer.get(receipt.commitment) for receipt in receipts] == blobs

    asyncio.run(story())


def test_a_batch_is_cut_again_when_the_layer_learns_that_less_is_taken(tmp_path: Path) -> None:
    class Behind(MemoryLayer):
        """Says that it takes more than it does, until it was refused."""

        async def put(self, blob: bytes) -> Receipt:
            if len(blob) > LIMIT_BYTES:
                self.blob_bytes_max = len(blob) // 2  # type: ignore[misc]
                raise BlobTooLarge("over size limit", layer=self.name, size_bytes=len(blob))
            return await super().put(blob)

    async def story(lab: Lab) -> None:
        large = await with_a_large_batch(lab, LIMIT_BYTES)
        lab.primary.blob_bytes_max = 10**6  # type: ignore[misc]
        lab.primary.__class__ = Behind
        await lab.serve()
        await lab.register(100)
        held = {unwrap(blob, [KEY.public]).sequence for _, blob in lab.primary._blobs}
        assert large in held
        assert lab.availability.pending.stuck_count == 0
        assert await rebuilt(lab, P)

    live(story, roles=[P], directory=tmp_path)


def test_a_batch_is_cut_again_though_the_smaller_parts_are_as_many(tmp_path: Path) -> None:
    taken_bytes = 0

    class Behind(MemoryLayer):
        """A node that takes a little less than it is taken to."""

        async def put(self, blob: bytes) -> Receipt:
            if len(blob) > taken_bytes:
                self.blob_bytes_max = taken_bytes  # type: ignore[misc]
                raise BlobTooLarge("over size limit", layer=self.name, size_bytes=len(blob))
            return await super().put(blob)

    async def story(lab: Lab) -> None:
        nonlocal taken_bytes
        large = await with_a_large_batch(lab, LIMIT_BYTES)
        (sealed,) = await lab.journal.read(Position(large - 1), 1)
        for limit_bytes in range(LIMIT_BYTES, 2 * LIMIT_BYTES):
            parts = wrap_batch(KEY, sealed, limit_bytes)
            taken_bytes = max(len(part) for part in parts) - 1
            if len(parts) == len(wrap_batch(KEY, sealed, taken_bytes)):
                break
        lab.primary.blob_bytes_max = limit_bytes  # type: ignore[misc]
        lab.primary.__class__ = Behind
        await lab.serve()
        await lab.register(100)
        assert lab.availability.pending.stuck_count == 0
        assert await rebuilt(lab, P)

    live(story, roles=[P], directory=tmp_path)
