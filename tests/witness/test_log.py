"""The file of a witness: whole records or none, damage found where it is, and nothing behind it lost."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from weft.model.canonical import sha3_hex
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed, LayerUnknown, Misconfigured
from weft.witness.log import _CRC, _HEAD, FILE_NAME, HEAD_BYTES, BlobLog, Draft

START_BYTES = 16


def draft(blob: bytes, height_min: int = 0) -> Draft:
    return Draft(sha3_hex(blob), blob, height_min)


def filled(directory: Path, *blobs: bytes) -> Path:
    log = BlobLog(directory)
    log.append([draft(blob) for blob in blobs])
    log.close()
    return directory / FILE_NAME


def blobs_of(directory: Path) -> list[bytes]:
    log = BlobLog(directory)
    try:
        return [log.read(entry.commitment) for entry in log.after(0, 100)[0]]
    finally:
        log.close()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_what_was_kept_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    filled(tmp_path, b"one", b"", b"three")
    assert blobs_of(tmp_path) == [b"one", b"", b"three"]


def test_a_blob_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = filled(tmp_path, b"one", b"two", b"one")
    size_bytes = path.stat().st_size
    filled(tmp_path, b"two")
    assert path.stat().st_size == size_bytes == START_BYTES + 2 * (HEAD_BYTES + 3)


def test_heights_grow_and_leap_to_what_they_should_at_least_be(tmp_path: Path) -> None:
    log = BlobLog(tmp_path)
    entries = log.append([draft(b"a"), draft(b"b", 7), draft(b"c", 3)])
    assert [entry.height for entry in entries] == [1, 7, 8]
    assert [entry.height for entry in log.after(1, 1)[0]] == [7]
    log.close()


@pytest.mark.parametrize("cut", range(1, HEAD_BYTES + 5))
def test_a_torn_end_is_put_aside_wherever_it_was_torn(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path, b"whole", b"tears")
    os.truncate(path, path.stat().st_size - cut)
    log = BlobLog(tmp_path)
    assert log.torn_bytes == HEAD_BYTES + 5 - cut
    log.close()
    assert blobs_of(tmp_path) == [b"whole"]
    if cut < HEAD_BYTES + 5:
        assert list(tmp_path.glob("torn-*")), "kept, for whoever looks for it"
    filled(tmp_path, b"after")
    assert blobs_of(tmp_path) == [b"whole", b"after"]


def test_zeros_at_the_end_are_a_torn_end(tmp_path: Path) -> None:
    path = filled(tmp_path, b"whole")
    with path.open("ab") as file:
        file.write(bytes(5_000))
    assert blobs_of(tmp_path) == [b"whole"]
    assert path.stat().st_size == START_BYTES + HEAD_BYTES + 5


@pytest.mark.parametrize("size_bytes", range(START_BYTES))
def test_a_file_that_was_created_in_the_moment_power_was_cut_is_a_new_one(tmp_path: Path, size_bytes: int) -> None:
    os.truncate(filled(tmp_path), size_bytes)
    assert blobs_of(tmp_path) == []


def test_a_flipped_byte_of_a_blob_is_found_when_it_is_read_and_putting_it_again_heals_it(tmp_path: Path) -> None:
    path = filled(tmp_path, b"first", b"second")
    flip(path, START_BYTES + HEAD_BYTES)
    log = BlobLog(tmp_path)
    with pytest.raises(BlobDamaged, match=str(START_BYTES + HEAD_BYTES)):
        log.read(sha3_hex(b"first"))
    assert len(log.after(0, 10)[0]) == 2, "it is still said to be there"
    (entry,) = log.append([draft(b"first")])
    assert log.read(sha3_hex(b"first")) == b"first"
    assert [one.commitment for one in log.after(0, 10)[0]] == [sha3_hex(b"second"), entry.commitment]
    log.close()
    assert blobs_of(tmp_path) == [b"second", b"first"]


def test_a_list_goes_on_behind_a_page_of_blobs_that_were_all_healed_elsewhere(tmp_path: Path) -> None:
    blobs = [bytes([number]) * 5 for number in range(9)]
    path = filled(tmp_path, *blobs)
    for number in range(6):
        flip(path, START_BYTES + number * (HEAD_BYTES + 5) + HEAD_BYTES)
    filled(tmp_path, *blobs[:6])
    log = BlobLog(tmp_path)
    height, is_end, pages = 0, False, []
    while not is_end:
        entries, is_end = log.after(height, 4)
        pages.append([entry.commitment for entry in entries])
        height = entries[-1].height
    log.close()
    heads = [sha3_hex(blob) for blob in [*blobs[6:], *blobs[:6]]]
    assert pages == [heads[:4], heads[4:8], heads[8:]]


def test_what_was_written_and_not_synced_before_a_kill_is_synced_before_anybody_is_told_that_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path, b"one")
    synced: list[int] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    log = BlobLog(tmp_path)
    assert path.stat().st_ino in synced, "the page cache may be all that has it"
    log.append([draft(b"one")])
    log.close()


def record(blob: bytes, height: int) -> bytes:
    head = _HEAD.pack(b"WBR1", len(blob), height, bytes.fromhex(sha3_hex(blob)))
    return head + _CRC.pack(zlib.crc32(head)) + blob


@pytest.mark.parametrize("height", [1, 2, 3, 50, 2**60])
@pytest.mark.parametrize("place", [0, 4, 5, 8, 20, 50])
@pytest.mark.parametrize("rest", [b"", b"and more"])
def test_a_blob_that_holds_a_record_hides_none_of_those_behind_it_when_its_head_is_damaged(
    tmp_path: Path, height: int, place: int, rest: bytes
) -> None:
    inside = b"before " + record(b"inside", height) + rest
    others = [b"blob %d" % number for number in range(9)]
    path = filled(tmp_path, b"first", inside, *others)
    flip(path, START_BYTES + HEAD_BYTES + 5 + place)
    found = blobs_of(tmp_path)
    assert [blob for blob in found if blob != b"inside"] == [b"first", *others]
    filled(tmp_path, b"after")
    assert blobs_of(tmp_path)[-1] == b"after"


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_record_inside_a_blob_that_was_torn_is_no_record(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path, b"first", b"before " + record(b"inside", 2**60) + bytes(cut))
    os.truncate(path, path.stat().st_size - cut)
    assert blobs_of(tmp_path) == [b"first"]
    filled(tmp_path, b"after")
    assert blobs_of(tmp_path) == [b"first", b"after"]


def test_two_damaged_heads_lose_two_blobs_and_none_between_them(tmp_path: Path) -> None:
    blobs = [b"blob %d" % number for number in range(9)]
    path = filled(tmp_path, *blobs)
    for number in (2, 6):
        # The length is what says where the next one begins.
        flip(path, START_BYTES + number * (HEAD_BYTES + 6) + 5)
    log = BlobLog(tmp_path)
    assert len(log.damaged_spans) == 2
    log.close()
    assert blobs_of(tmp_path) == [blob for number, blob in enumerate(blobs) if number not in (2, 6)]


@pytest.mark.parametrize("place", range(HEAD_BYTES))
def test_a_flipped_byte_of_a_head_loses_its_blob_and_none_behind_it(tmp_path: Path, place: int) -> None:
    path = filled(tmp_path, b"first", b"second", b"third")
    flip(path, START_BYTES + HEAD_BYTES + 5 + place)
    log = BlobLog(tmp_path)
    assert log.damaged_spans == [(START_BYTES + HEAD_BYTES + 5, START_BYTES + 2 * HEAD_BYTES + 11)]
    with pytest.raises(BlobMissing):
        log.read(sha3_hex(b"second"))
    log.close()
    assert blobs_of(tmp_path) == [b"first", b"third"]


def test_a_file_that_is_no_log_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"a letter to a friend")
    with pytest.raises(Misconfigured, match=FILE_NAME):
        BlobLog(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == b"a letter to a friend"


def test_two_witnesses_do_not_share_a_directory(tmp_path: Path) -> None:
    log = BlobLog(tmp_path)
    with pytest.raises(Misconfigured, match="another witness"):
        BlobLog(tmp_path)
    log.close()


def test_a_full_disk_keeps_nothing_and_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = BlobLog(tmp_path)
    log.append([draft(b"before")])
    real = os.pwrite

    def half(descriptor: int, data: memoryview, offset: int) -> int:
        if len(data) < 30:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(LayerFailed, match="full") as failure:
        log.append([draft(b"too much")])
    assert not isinstance(failure.value, LayerUnknown)
    monkeypatch.undo()
    assert (tmp_path / FILE_NAME).stat().st_size == log.size_bytes
    log.append([draft(b"after")])
    log.close()
    assert blobs_of(tmp_path) == [b"before", b"after"]


def test_after_a_failed_sync_nothing_is_taken_until_the_file_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = BlobLog(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LayerUnknown):
        log.append([draft(b"perhaps")])
    monkeypatch.undo()
    with pytest.raises(LayerFailed, match="start the server again"):
        log.append([draft(b"another")])
    assert log.refuses is not None
    log.close()
    filled(tmp_path, b"again")
    assert b"again" in blobs_of(tmp_path)


def test_a_process_that_was_killed_keeps_what_it_answered_for(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from weft.witness.log import BlobLog, Draft; "
        "from weft.model.canonical import sha3_hex; "
        "log = BlobLog(pathlib.Path(sys.argv[1])); log.append([Draft(sha3_hex(b'kept'), b'kept', 0)]); "
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
    assert ended.returncode == -9
    assert blobs_of(tmp_path) == [b"kept"]
