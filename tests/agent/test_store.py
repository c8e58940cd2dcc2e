"""The store: an object is there whole or not at all, whatever the disk does."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.agent.disk import RealDisk
from weft.agent.store import Store
from weft.model.errors import (
    Misconfigured,
    ObjectCorrupt,
    ObjectNotFound,
    StoreFailed,
    StoreFull,
    StoreUnreadable,
    WeftError,
)
from weft.model.object import ObjectHash
from weft.model.policy import CHUNK_BYTES

SMALL = b"what an object is made of"


def hash_of(content: bytes) -> ObjectHash:
    return ObjectHash(hashlib.sha256(content).hexdigest())


def keep(store: Store, content: bytes) -> ObjectHash:
    object_hash = hash_of(content)
    with store.begin(object_hash, len(content)) as draft:
        for start in range(0, len(content), CHUNK_BYTES):
            draft.append(memoryview(content)[start : start + CHUNK_BYTES])
        draft.commit()
    return object_hash


def file_of(store: Store, object_hash: ObjectHash) -> Path:
    return store.directory / "objects" / object_hash[:2] / object_hash


def files(directory: Path) -> set[str]:
    """Every file a store has written, but for its lock."""
    return {path.name for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


class FailingDisk(RealDisk):
    """A disk that fails once, at the step a test counts down to."""

    def __init__(self, error_number: int, countdown: int) -> None:
        self.error_number = error_number
        self.countdown = countdown

    def _step(self) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            raise OSError(self.error_number, os.strerror(self.error_number))

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, descriptor: int, data: memoryview) -> None:
        self._step()
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        self._step()
        super().sync_folder(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", spare_bytes=0)


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 7], ids=["none", "one", "chunk", "more"])
def test_an_object_is_read_back_as_it_was_kept(store: Store, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    object_hash = keep(store, content)
    assert store.hashes() == [object_hash]
    assert store.size_of(object_hash) == size_bytes
    store.check(object_hash)
    read = b""
    while len(read) < size_bytes:
        chunk = memoryview(bytearray(min(CHUNK_BYTES, size_bytes - len(read))))
        assert store.read_chunk(object_hash, len(read) // CHUNK_BYTES, chunk) == hashlib.sha256(chunk).digest()
        read += chunk
    assert read == content


def test_a_store_that_is_opened_again_has_what_was_kept(store: Store) -> None:
    object_hash = keep(store, SMALL)
    store.close()
    again = Store(store.directory, spare_bytes=0)
    assert (again.hashes(), again.used_bytes) == ([object_hash], len(SMALL))
    again.check(object_hash)


def test_what_is_not_the_announced_object_is_never_kept(store: Store) -> None:
    with store.begin(hash_of(SMALL), len(SMALL)) as draft:
        draft.append(memoryview(SMALL[::-1]))
        with pytest.raises(ObjectCorrupt):
            draft.commit()
    assert (store.hashes(), files(store.directory)) == ([], set())


def test_an_object_that_is_shorter_or_longer_than_announced_is_never_kept(store: Store) -> None:
    with store.begin(hash_of(SMALL), len(SMALL) + 1) as draft:
        draft.append(memoryview(SMALL))
        with pytest.raises(ObjectCorrupt):
            draft.commit()
    with store.begin(hash_of(SMALL), 3) as draft, pytest.raises(ObjectCorrupt):
        draft.append(memoryview(SMALL))
    assert files(store.directory) == set()


@pytest.mark.parametrize("wrong", ["abc123def456...", "../../etc/passwd", "AB" * 32 + "x"])
def test_only_a_sha256_names_a_file(store: Store, wrong: str) -> None:
    with pytest.raises(ObjectNotFound):
        store.begin(ObjectHash(wrong), 1)


def test_a_draft_that_is_given_up_leaves_nothing(store: Store) -> None:
    with store.begin(hash_of(SMALL), len(SMALL)) as draft:
        draft.append(memoryview(SMALL[:3]))
    assert files(store.directory) == set()
    assert keep(store, SMALL)


def test_the_same_object_received_twice_at_once_is_one(store: Store) -> None:
    one, other = (store.begin(hash_of(SMALL), len(SMALL)) for _ in range(2))
    for draft in (one, other):
        draft.append(memoryview(SMALL))
    for draft in (one, other):
        draft.commit()
    assert (store.hashes(), store.used_bytes) == ([hash_of(SMALL)], len(SMALL))
    store.check(hash_of(SMALL))


def test_what_a_killed_process_had_received_is_gone_when_the_store_is_opened(store: Store) -> None:
    draft = store.begin(hash_of(SMALL), len(SMALL))
    draft.append(memoryview(SMALL))
    left_over = store.directory / "incoming"
    assert any(left_over.iterdir())
    store.close()
    Store(store.directory, spare_bytes=0)
    assert list(left_over.iterdir()) == []


def test_a_directory_has_one_store(store: Store) -> None:
    with pytest.raises(Misconfigured) as refused:
        Store(store.directory)
    assert "another process" in str(refused.value)


def test_a_directory_that_cannot_be_made_is_said_with_the_flag_that_helps(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Misconfigured) as refused:
        Store(tmp_path / "file" / "store")
    assert "--objects" in str(refused.value)


def test_a_full_store_refuses_before_a_byte_is_sent_and_counts_what_is_coming(tmp_path: Path) -> None:
    store = Store(tmp_path, capacity_bytes=100, spare_bytes=0)
    keep(store, bytes(40))
    assert store.free_bytes == 60
    with store.begin(hash_of(b"a"), 50):
        with pytest.raises(StoreFull) as full:
            store.begin(hash_of(b"b"), 20)
        assert (full.value.wanted_bytes, full.value.free_bytes) == (20, 10)
    with store.begin(hash_of(b"b"), 60):
        pass


def test_a_disk_keeps_some_room_for_others(tmp_path: Path) -> None:
    store = Store(tmp_path, spare_bytes=1 << 60)
    assert store.free_bytes == 0


@pytest.mark.parametrize(
    ("error_number", "expected"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreFailed), (errno.EIO, StoreFailed)],
    ids=["full", "quota", "read-only", "broken"],
)
def test_a_disk_that_fails_at_any_step_leaves_nothing_half_kept(
    tmp_path: Path, error_number: int, expected: type[WeftError]
) -> None:
    for countdown in range(1, 100):
        directory = tmp_path / f"{countdown}"
        kept = b"kept before"
        store = Store(directory, spare_bytes=0)
        before = keep(store, kept)
        disk = FailingDisk(error_number, countdown)
        store._disk = disk
        refused: WeftError | None = None
        try:
            keep(store, SMALL)
        except expected as error:
            refused = error
        assert (refused is None) is (disk.countdown > 0), "a step that failed is told, and nothing else is"
        if refused is None:
            break
        assert str(directory) in str(refused)
        assert store.hashes() == [before]
        store.check(before)
        store.close()
        again = Store(directory, spare_bytes=0)
        assert list((directory / "incoming").iterdir()) == []
        for one in again.hashes():
            again.check(one)
        # The disk is good again, and so is the store.
        object_hash = keep(again, SMALL)
        again.check(object_hash)
        again.close()
    # Create, write, sync, and so for the chunk hashes; two renames and the folder. Each of the nine has failed once.
    assert countdown == 10


class UnreadableDisk(RealDisk):
    """A disk of a machine that cannot read now."""

    def __init__(self, error_number: int) -> None:
        self.error_number = error_number

    def read(self, path: Path, offset: int, into: memoryview) -> int:
        raise OSError(self.error_number, os.strerror(self.error_number))


@pytest.mark.parametrize(
    "error_number",
    [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.ESTALE],
    ids=errno.errorcode.get,
)
def test_a_machine_that_cannot_read_just_now_has_not_lost_the_copy(store: Store, error_number: int) -> None:
    object_hash = keep(store, SMALL)
    store._disk = UnreadableDisk(error_number)
    for look in (lambda: store.check(object_hash), lambda: store.read_chunk(object_hash, 0, memoryview(bytearray(1)))):
        with pytest.raises(StoreUnreadable, match="its copy is kept") as refusal:
            look()
        assert (refusal.value.temporary, refusal.value.reason) == (True, errno.errorcode[error_number])
    store._disk = RealDisk()
    store.check(object_hash)


@pytest.mark.parametrize(
    "error_number", [errno.EIO, errno.EUCLEAN, errno.ENODATA, errno.EISDIR], ids=errno.errorcode.get
)
def test_a_medium_that_gives_no_bytes_has_lost_them(store: Store, error_number: int) -> None:
    object_hash = keep(store, SMALL)
    store._disk = UnreadableDisk(error_number)
    with pytest.raises(ObjectCorrupt):
        store.check(object_hash)


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.with_name(path.name + ".chunks").write_bytes(bytes(32)),
        lambda path: path.with_name(path.name + ".chunks").write_bytes(b""),
    ],
    ids=["flipped", "shorter", "longer", "wrong sums", "no sums"],
)
def test_damage_is_found_by_looking(store: Store, damage: Damage) -> None:
    object_hash = keep(store, SMALL)
    damage(file_of(store, object_hash))
    with pytest.raises(ObjectCorrupt):
        store.check(object_hash)


def test_a_damaged_chunk_is_never_handed_out(store: Store) -> None:
    object_hash = keep(store, SMALL)
    file_of(store, object_hash).write_bytes(SMALL[::-1])
    with pytest.raises(ObjectCorrupt):
        store.read_chunk(object_hash, 0, memoryview(bytearray(len(SMALL))))


def test_a_lie_with_fitting_sums_is_found_by_the_name(store: Store) -> None:
    object_hash = keep(store, SMALL)
    path = file_of(store, object_hash)
    path.write_bytes(SMALL[::-1])
    path.with_name(path.name + ".chunks").write_bytes(hashlib.sha256(SMALL[::-1]).digest())
    with pytest.raises(ObjectCorrupt):
        store.check(object_hash)


def test_a_file_that_vanished_is_not_found(store: Store) -> None:
    object_hash = keep(store, SMALL)
    file_of(store, object_hash).unlink()
    with pytest.raises(ObjectNotFound):
        store.check(object_hash)


def test_a_file_whose_sums_do_not_fit_its_length_is_not_an_object_when_the_store_is_opened(store: Store) -> None:
    object_hash = keep(store, SMALL)
    path = file_of(store, object_hash)
    path.with_name(path.name + ".chunks").unlink()
    store.close()
    assert Store(store.directory, spare_bytes=0).hashes() == []
    assert files(store.directory) == set()


def test_a_removed_object_is_gone_and_its_room_is_free(tmp_path: Path) -> None:
    store = Store(tmp_path, capacity_bytes=100, spare_bytes=0)
    object_hash = keep(store, SMALL)
    assert store.remove(object_hash)
    assert not store.remove(object_hash)
    assert (store.hashes(), store.used_bytes, store.free_bytes, files(tmp_path)) == ([], 0, 100, set())
