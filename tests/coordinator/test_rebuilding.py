"""GET /state and POST /state/rebuild: the living state beside one that is rebuilt."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import SECRET, CountingRandom, Door, FakeClock, coordinator_door, run, seed_node
from weft.coordinator.app import Limits
from weft.core.state import state_digest
from weft.ledger import MemoryJournal, SqliteJournal
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layers import MemoryLayer
from weft.ledger.snapshot import SnapshotFolder
from weft.model.availability import Role
from weft.model.errors import JournalDamaged
from weft.model.ids import Position
from weft.receipts import Domain, SigningKey

KEY = SigningKey.from_secret(SECRET, Domain.PUBLISHER)


async def populate(door: Door, count: int = 30) -> None:
    await door.ok("POST", "/cluster", {"name": "c"})
    for number in range(count):
        await door.ok("POST", "/nodes", seed_node(number), weft_request_id=f"r{number}")


async def layer_of(door: Door, upto: int | None = None) -> MemoryLayer:
    """A layer that holds this coordinator's log, or the beginning of it."""
    layer = MemoryLayer(FakeClock(), CountingRandom())
    for sealed in (await door.coordinator._journal.read(Position(0), 1_000))[:upto]:
        await layer.put(wrap(KEY, sealed.batch.cluster_id, Kind.BATCH, sealed.batch.position, sealed.body))
    return layer


def test_the_state_is_told_with_its_digests_and_counts() -> None:
    async def story(door: Door) -> None:
        await populate(door)
        told = await door.ok("GET", "/state")
        state = door.coordinator.writer.state
        assert told["position"] == state.marks.position == 32
        assert told["state_digest"] == state_digest(state).hex()
        assert told["log_digest"] == state.marks.log_digest.hex()
        assert told["counts"]["nodes"] == 30
        assert (told["term"], told["writes"], told["oldest"], told["snapshot"]) == (1, True, 1, 0)

    run(story)


def test_a_rebuild_from_the_journal_gives_the_living_state() -> None:
    async def story(door: Door) -> None:
        await populate(door)
        report = await door.ok("POST", "/state/rebuild", {})
        told = await door.ok("GET", "/state")
        assert (report["source"], report["same"], report["behind"]) == ("journal", True, 0)
        assert [report[name] for name in ("position", "state_digest")] == [told["position"], told["state_digest"]]

    run(story)


def test_a_rebuild_from_a_layer_gives_the_living_state_and_says_what_is_not_there_yet() -> None:
    async def story(door: Door) -> None:
        await populate(door)
        door.coordinator.rebuilding.know({Role.PRIMARY: await layer_of(door), Role.SECONDARY: await layer_of(door, 20)})
        whole = await door.ok("POST", "/state/rebuild", {"from": "primary"})
        assert (whole["same"], whole["behind"], whole["blobs"]) == (True, 0, 32)
        part = await door.ok("POST", "/state/rebuild", {"from": "secondary"})
        assert (part["same"], part["behind"], part["position"]) == (True, 12, 20)

    run(story)


@pytest.mark.parametrize(
    ("source", "status", "code"), [("moon", 503, "DA_UNAVAILABLE"), ("layers", 503, "DA_UNAVAILABLE")]
)
def test_without_layers_there_is_nothing_to_rebuild_from_but_the_journal(source: str, status: int, code: str) -> None:
    async def story(door: Door) -> None:
        await populate(door, 1)
        answer = await door("POST", "/state/rebuild", {"from": source})
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    run(story)


def test_a_layer_nobody_knows_is_a_wrong_field() -> None:
    async def story(door: Door) -> None:
        await populate(door, 1)
        door.coordinator.rebuilding.know({Role.PRIMARY: await layer_of(door)})
        answer = await door("POST", "/state/rebuild", {"from": "primary,moon"})
        assert (answer.status_code, answer.json()["fields"]["field"]) == (422, "from")
        assert "moon" in answer.json()["error"]

    run(story)


def test_a_layer_with_a_gap_is_refused_with_the_position() -> None:
    async def story(door: Door) -> None:
        await populate(door)
        layer = await layer_of(door)
        del layer._blobs[6]
        door.coordinator.rebuilding.know({Role.PRIMARY: layer})
        answer = await door("POST", "/state/rebuild", {"from": "primary"})
        assert (answer.status_code, answer.json()["code"]) == (503, "journal_damaged")
        assert answer.json()["fields"]["position"] == 7

    run(story)


def settings(directory: Path, **limits: Any) -> dict[str, Any]:
    return {
        "snapshots": SnapshotFolder(directory / "snapshots", KEY),
        "limits": Limits(sweep_ms=3_600_000, **limits),
    }


def live(directory: Path, story: Any, **limits: Any) -> None:
    """One life of a coordinator on a disk, with snapshots."""

    async def tell() -> None:
        async with coordinator_door(SqliteJournal(directory), **settings(directory, **limits)) as door:
            await story(door)

    asyncio.run(tell())


def test_a_restart_begins_with_the_newest_snapshot_and_lives_on_as_if_it_had_lived_through_all(tmp_path: Path) -> None:
    told: list[Any] = []

    async def first(door: Door) -> None:
        await populate(door)
        await door.coordinator.snapshots.take()
        await door.ok("POST", "/nodes", seed_node("after"))
        told.append(await door.ok("GET", "/state"))

    async def second(door: Door) -> None:
        assert "snapshot adopted" in door.log.getvalue()
        again = await door.ok("GET", "/state")
        assert again["events"] == told[0]["events"] + 1, "a term was begun, and nothing else"
        assert again["counts"] == told[0]["counts"]
        assert (await door.ok("POST", "/state/rebuild", {}))["same"]
        repeat = await door.ok("POST", "/nodes", seed_node(3), weft_request_id="r3")
        assert repeat["status"] == "joined", "what was answered before the snapshot is answered the same"

    live(tmp_path, first)
    live(tmp_path, second)


def test_snapshots_are_taken_as_the_log_grows_and_the_log_below_them_is_let_go_of(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        await populate(door, 60)
        await door.coordinator.snapshots.end()
        await door.ok("POST", "/nodes", seed_node("last"))
        await door.coordinator.snapshots.end()
        told = await door.ok("GET", "/state")
        assert told["snapshot"] > 20
        assert 1 < told["oldest"] <= min(door.coordinator.snapshots._folder.positions())
        gone = await door("GET", "/events?from=0&follow=false")
        assert (gone.status_code, gone.json()["fields"]["oldest"]) == (410, told["oldest"])
        assert (await door.ok("POST", "/state/rebuild", {}))["same"]

    live(tmp_path, story, snapshot_events=20, kept_batches=5)

    async def again(door: Door) -> None:
        assert (await door.ok("GET", "/cluster"))["nodes"] == 61

    live(tmp_path, again, snapshot_events=20, kept_batches=5)


def test_a_damaged_snapshot_is_passed_over_and_the_one_before_it_is_good(tmp_path: Path) -> None:
    async def first(door: Door) -> None:
        await populate(door, 10)
        await door.coordinator.snapshots.take()
        await door.ok("POST", "/nodes", seed_node("a"))
        await door.coordinator.snapshots.take()
        await door.ok("POST", "/nodes", seed_node("b"))

    async def second(door: Door) -> None:
        assert "a snapshot was passed over" in door.log.getvalue()
        assert "snapshot adopted" in door.log.getvalue()
        assert (await door.ok("GET", "/cluster"))["nodes"] == 12

    live(tmp_path, first)
    newest = max((tmp_path / "snapshots").iterdir())
    content = newest.read_bytes()
    newest.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    live(tmp_path, second)


def test_a_trimmed_log_without_a_good_snapshot_is_refused_with_the_position(tmp_path: Path) -> None:
    async def first(door: Door) -> None:
        await populate(door, 60)
        await door.coordinator.snapshots.end()

    live(tmp_path, first, snapshot_events=20, kept_batches=5)
    for path in (tmp_path / "snapshots").iterdir():
        path.unlink()
    with pytest.raises(JournalDamaged, match="weft ledger rebuild"):
        live(tmp_path, first)


def test_an_older_copy_of_the_journal_is_not_taken_for_the_log(tmp_path: Path) -> None:
    async def first(door: Door) -> None:
        await populate(door, 10)
        await door.coordinator.snapshots.take()

    live(tmp_path, first)
    (tmp_path / "journal.sqlite").unlink()
    with pytest.raises(JournalDamaged, match="older copy, or lost"):
        live(tmp_path, first)


def test_a_snapshot_of_another_log_is_not_adopted(tmp_path: Path) -> None:
    async def first(door: Door) -> None:
        await populate(door, 10)

    async def other(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "other"})
        await door.coordinator.snapshots.take()

    async def second(door: Door) -> None:
        assert "a snapshot is not of this log" in door.log.getvalue()
        assert (await door.ok("GET", "/cluster"))["nodes"] == 10

    (tmp_path / "one").mkdir()
    live(tmp_path / "one", first)
    (tmp_path / "two").mkdir()
    live(tmp_path / "two", other)
    (tmp_path / "one" / "snapshots").mkdir(exist_ok=True)
    for path in (tmp_path / "two" / "snapshots").iterdir():
        path.rename(tmp_path / "one" / "snapshots" / path.name)
    live(tmp_path / "one", second)


def test_a_memory_journal_has_no_snapshots() -> None:
    async def tell() -> None:
        async with coordinator_door(MemoryJournal()) as door:
            assert door.coordinator.snapshots.newest == 0

    asyncio.run(tell())


def test_a_snapshot_is_put_into_a_layer_and_a_rebuild_from_there_needs_nothing_from_before_it() -> None:
    async def tell() -> None:
        clock, random = FakeClock(), CountingRandom()
        layer = MemoryLayer(clock, random)
        with tempfile.TemporaryDirectory() as folder:
            made = settings(Path(folder))
            async with coordinator_door(SqliteJournal(Path(folder)), layers={Role.PRIMARY: layer}, **made) as door:
                await populate(door)
                position = await door.coordinator.snapshots.take()
                await door.ok("POST", "/nodes", seed_node("after"))
                layer._blobs = layer._blobs[position:]
                report = await door.ok("POST", "/state/rebuild", {"from": "primary"})
                assert (report["same"], report["behind"], report["began_at"]) == (True, 0, position)

    asyncio.run(tell())
