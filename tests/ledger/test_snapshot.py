"""Snapshots on a disk: whole or not at all, and damage found before anybody uses one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds import SECRET, World, node
from weft.core.snapshot import describe, restore, snapshot_bytes
from weft.core.state import state_digest
from weft.ledger.envelope import unwrap
from weft.ledger.snapshot import SnapshotFolder, join_pieces, seal_snapshot, unseal_snapshot
from weft.model.errors import SnapshotDamaged, SnapshotFailed
from weft.receipts import Domain, SigningKey

KEY = SigningKey.from_secret(SECRET, Domain.PUBLISHER)
WORLD = World.founded(*(node(str(number)) for number in range(50)))
SNAPSHOT = describe(WORLD.state)
LATER = World.founded(*(node(str(number)) for number in range(50)))
for number in range(50, 60):
    LATER.do(node(str(number)))


def folder(path: Path) -> SnapshotFolder:
    made = SnapshotFolder(path / "snapshots", KEY)
    made.open()
    return made


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that every snapshot has several."""
    monkeypatch.setattr("weft.ledger.snapshot.SNAPSHOT_PIECE_BYTES", 1_000)


def test_what_was_written_is_read_back(tmp_path: Path, in_pieces: None) -> None:
    folder(tmp_path).write(SNAPSHOT)
    again = folder(tmp_path)
    assert again.positions() == [SNAPSHOT.position]
    assert len(again.envelopes(SNAPSHOT.position)) > 5
    assert snapshot_bytes(again.read(SNAPSHOT.position)) == snapshot_bytes(SNAPSHOT)


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    kept = folder(tmp_path)
    worlds = World.founded()
    for number in range(5):
        worlds.do(node(str(number)))
        kept.write(describe(worlds.state))
    assert len(kept.positions()) == 2
    assert kept.positions()[0] == worlds.state.marks.position


def test_pieces_may_come_in_any_order_and_more_than_once(in_pieces: None) -> None:
    envelopes = seal_snapshot(SNAPSHOT, KEY)
    shuffled = [*reversed(envelopes), *envelopes[:2]]
    assert state_digest(restore(unseal_snapshot(shuffled, (KEY.public,)))) == SNAPSHOT.state_digest


def test_a_missing_piece_and_one_of_another_snapshot_are_refused(in_pieces: None) -> None:
    envelopes = seal_snapshot(SNAPSHOT, KEY)
    with pytest.raises(SnapshotDamaged, match="pieces"):
        unseal_snapshot(envelopes[:-1], (KEY.public,))
    with pytest.raises(SnapshotDamaged, match="mixed"):
        unseal_snapshot([*envelopes[:-1], seal_snapshot(describe(LATER.state), KEY)[-1]], (KEY.public,))
    with pytest.raises(SnapshotDamaged, match="one piece"):
        join_pieces([])
    assert unwrap(envelopes[0], (KEY.public,)).sequence == SNAPSHOT.position


def test_somebody_elses_snapshot_is_not_ours(tmp_path: Path) -> None:
    folder(tmp_path).write(SNAPSHOT)
    other = SnapshotFolder(tmp_path / "snapshots", SigningKey.from_secret(b"another secret", Domain.PUBLISHER))
    with pytest.raises(SnapshotDamaged, match="not this cluster's"):
        other.read(SNAPSHOT.position)


def test_any_flipped_bit_and_any_cut_is_found(tmp_path: Path, in_pieces: None) -> None:
    kept = folder(tmp_path)
    path = kept.write(SNAPSHOT)
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 97)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(SnapshotDamaged, match=str(SNAPSHOT.position)):
            kept.read(SNAPSHOT.position)
        path.write_bytes(content[:place])
        with pytest.raises(SnapshotDamaged):
            kept.read(SNAPSHOT.position)


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    kept = folder(tmp_path)
    path = kept.write(SNAPSHOT)
    path.rename(path.with_name(f"{99:016d}.snapshot"))
    with pytest.raises(SnapshotDamaged, match="99"):
        kept.read(kept.positions()[0])


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    kept = SnapshotFolder(tmp_path / "not" / "there", KEY)
    with pytest.raises(SnapshotFailed, match="there"):
        kept.write(SNAPSHOT)


@pytest.mark.parametrize("step", ["_write_file", "_name", "_sync_directory", "_remove_old"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_leaves_a_whole_snapshot_or_the_one_before(tmp_path: Path, step: str, when: str) -> None:
    first = World.founded(*(node(str(number)) for number in range(5)))
    folder(tmp_path).write(describe(first.state))
    program = """
import os, sys
from pathlib import Path
from tests.ledger.test_snapshot import KEY, SNAPSHOT, LATER, SnapshotFolder, describe
path, step, when = sys.argv[1:]
kept = SnapshotFolder(Path(path) / "snapshots", KEY)
inner = getattr(kept, step)
def killed(*arguments):
    if when == "after":
        inner(*arguments)
    os.kill(os.getpid(), 9)
setattr(kept, step, killed)
kept.open()
kept.write(describe(LATER.state))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), step, when],
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": f"python{os.pathsep}."},
    )
    assert ended.returncode == -9
    kept = folder(tmp_path)
    found = [kept.read(position).state_digest for position in kept.positions()]
    before, after = describe(first.state).state_digest, describe(LATER.state).state_digest
    assert found[0] in (before, after)
    assert (found[0] == after) == (step not in ("_write_file", "_name") or (step, when) == ("_name", "after"))
    assert list((tmp_path / "snapshots").glob("*.unfinished")) == []
