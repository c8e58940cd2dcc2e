"""The archive: blobs under their names, whole or not at all, and what is known of the order they stood in."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from weft.ledger.archive import INDEX_NAME, Archive, Place
from weft.ledger.layer import commit_to
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed

BLOB = b"a blob"
COMMITMENT = commit_to(BLOB)


def play(directory: Path, story: Callable[[Archive], Awaitable[None]]) -> None:
    async def tell() -> None:
        archive = Archive(directory, layer="celestia")
        try:
            await story(archive)
        finally:
            await archive.close()

    asyncio.run(tell())


def file_of(directory: Path) -> Path:
    return directory / "blobs" / COMMITMENT[:2] / COMMITMENT


def test_a_blob_is_there_when_the_archive_is_opened_again(tmp_path: Path) -> None:
    async def keep(archive: Archive) -> None:
        await archive.keep([(COMMITMENT, BLOB)])
        await archive.note([Place(7, 0, COMMITMENT, b"mark")])

    async def read(archive: Archive) -> None:
        assert await archive.read(COMMITMENT) == BLOB
        assert await archive.place_of(COMMITMENT) == Place(7, 0, COMMITMENT, b"mark")

    play(tmp_path, keep)
    play(tmp_path, read)
    assert file_of(tmp_path).read_bytes() == BLOB


def test_a_changed_file_is_found_and_keeping_the_blob_again_heals_it(tmp_path: Path) -> None:
    async def story(archive: Archive) -> None:
        await archive.keep([(COMMITMENT, BLOB)])
        file_of(tmp_path).write_bytes(b"a blab")
        with pytest.raises(BlobDamaged):
            await archive.read(COMMITMENT)
        await archive.keep([(COMMITMENT, BLOB)])
        assert await archive.read(COMMITMENT) == BLOB
        with pytest.raises(BlobMissing):
            await archive.read(commit_to(b"another"))

    play(tmp_path, story)


def test_a_file_whose_name_was_not_synced_before_a_kill_is_synced_when_its_blob_is_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    async def keep(archive: Archive) -> None:
        await archive.keep([(COMMITMENT, BLOB)])

    play(tmp_path, keep)
    monkeypatch.setattr("weft.ledger.archive._sync_folder", synced.append)
    play(tmp_path, keep)
    assert sorted(synced) == [tmp_path / "blobs", file_of(tmp_path).parent]


def test_places_come_in_order_and_from_a_place_on(tmp_path: Path) -> None:
    async def story(archive: Archive) -> None:
        places = [
            Place(height, ordinal, commit_to(b"%d %d" % (height, ordinal)), b"%d %d" % (height, ordinal))
            for height in (1, 2, 4)
            for ordinal in (0, 1)
        ]
        await archive.note(places[::-1])
        assert await archive.places(0, 0, 10, 10) == places
        assert await archive.places(1, 1, 4, 10) == places[1:4]
        assert await archive.places(2, 0, 10, 2) == places[2:4]

    play(tmp_path, story)


def test_what_was_sent_is_remembered_until_it_has_a_place_or_certainly_has_none(tmp_path: Path) -> None:
    async def send(archive: Archive) -> None:
        await archive.note_sent([b"one", b"two", b"three"], 5)
        await archive.note_sent([b"one"], 9)

    async def later(archive: Archive) -> None:
        assert await archive.sent([b"one", b"two", b"four"]) == {b"one": 5, b"two": 5}
        await archive.note([Place(6, 0, COMMITMENT, b"one")])
        await archive.forget_sent([b"two"])
        assert await archive.sent([b"one", b"two", b"three"]) == {b"three": 5}

    play(tmp_path, send)
    play(tmp_path, later)


def test_heights_that_were_read_join_and_a_hole_between_begins_anew(tmp_path: Path) -> None:
    async def story(archive: Archive) -> None:
        assert not (await archive.covered()).holds(1, 1)
        await archive.cover(5, 9)
        await archive.cover(10, 12)
        await archive.cover(4, 4)
        assert tuple(await archive.covered()) == (4, 12)
        assert (await archive.covered()).holds(5, 12)
        await archive.cover(20, 21)
        assert tuple(await archive.covered()) == (20, 21), "what is between was never read"
        assert not (await archive.covered()).holds(12, 20)

    play(tmp_path, story)


def test_an_index_that_is_none_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_bytes(b"a letter to a friend" * 100)
    with pytest.raises(LayerFailed, match=INDEX_NAME):
        Archive(tmp_path, layer="celestia")
