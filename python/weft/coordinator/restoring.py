"""Throwing a disk away and rebuilding it: `weft ledger rebuild`, while no coordinator runs on the data directory.

The new journal is made beside the old one and takes its place when it is whole; what was there is kept under another
name. As long as the directory of the unfinished one exists no coordinator starts, because a journal that ends too early
looks like a good one. So what if the process is killed? The rebuild is run again, and nobody has been answered from
half a log in between.

Journals in NATS and PostgreSQL are never emptied from here: one that is empty is filled, one that is not is lived
through, and a snapshot of it is left on this machine's disk.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from weft.coordinator.listed import check_list
from weft.core.snapshot import describe
from weft.core.state import state_digest
from weft.ledger import Journal, SqliteJournal, open_journal, open_shared_journal
from weft.ledger.filling import announce_filling, check_filled, read_filling
from weft.ledger.layer import Layer
from weft.ledger.lock import ProcessLock
from weft.ledger.rebuild import JournalTarget, Progress, Target, Tell, rebuild_from_journal, rebuild_from_layers
from weft.ledger.snapshot import SnapshotFolder
from weft.ledger.sqlite import FILE_NAME, UNFINISHED
from weft.model.errors import JournalDamaged, JournalFailed, SnapshotDamaged
from weft.model.ids import Position
from weft.model.journal import JournalKind, JournalPlace
from weft.receipts import SigningKey

_BESIDE: Final = ("-wal", "-shm", "")
"""What SQLite keeps of one database, in the order in which it is moved. The file itself is last: SQLite would play a
write-ahead log that is left behind back into whatever file has the name next."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `aside` is where the old journal is now, empty when there was none; `list_aside` is a copy of
    the pending list, empty unless something was taken off it.
    """

    position: Position
    events: int
    state_digest: bytes
    aside: str = ""
    list_aside: str = ""


async def restore_from_layers(
    layers: Sequence[Layer],
    place: JournalPlace,
    directory: Path,
    snapshots: SnapshotFolder,
    key: SigningKey,
    tell: Tell,
    *,
    forced: bool = False,
) -> Restored:
    """Rebuild the journal at a place from what layers hold. Raises `JournalFailed` and leaves the old one as it was.

    A log that lacks what this disk knows to be acknowledged is refused, unless it is `forced`.
    """
    if place.kind is JournalKind.MEMORY:
        raise JournalFailed("a journal in memory is not rebuilt: it is gone when its process ends", path=place.shown)
    if place.is_shared:
        return await _fill_shared(layers, place, directory, snapshots, key, tell, forced=forced)
    lock = ProcessLock.take(directory / f"{FILE_NAME}.lock")
    try:
        unfinished = directory / UNFINISHED
        journal = _fresh(unfinished)

        async def again() -> Journal:
            await target.journal.close()
            return _fresh(unfinished)

        target = JournalTarget(journal, again)
        try:
            await rebuild_from_layers(layers, (key.public,), target, tell)
            names = ", ".join(layer.name for layer in layers)
            list_aside = await check_list(directory, target.state, target.journal, key, names, forced=forced)
        except BaseException:
            await target.journal.close()
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        await target.journal.close()
        # Snapshots of the log that was here may be of positions the layers never had.
        snapshots.wipe()
        snapshots.open()
        snapshots.write(describe(target.state, target.answered))
        aside = _exchange(directory, unfinished)
        return _restored(target, aside, list_aside)
    finally:
        lock.release()


async def restore_from_journal(place: JournalPlace, directory: Path, snapshots: SnapshotFolder, tell: Tell) -> Restored:
    """Live through a journal from its beginning, trusting no snapshot, and leave a new one.

    Raises `JournalDamaged`, naming the first position that is wrong.
    """
    shared = await open_shared_journal(place) if place.is_shared else None
    journal = shared or await open_journal(place, directory)
    try:
        if shared is not None:
            await check_filled(shared, await read_filling(shared), place.shown)
        base = None
        if await journal.oldest() > 1:
            for position in reversed(snapshots.positions()):
                try:
                    base = snapshots.read(position)
                    break
                except SnapshotDamaged:
                    continue
        target = Target()
        await rebuild_from_journal(journal, target, tell, base=base)
        if target.state.ledger is None:
            raise JournalDamaged(f"{place.shown} holds nothing to rebuild from", path=place.shown, position=1)
        snapshots.wipe()
        snapshots.open()
        await asyncio.to_thread(lambda: snapshots.write(describe(target.state, target.answered)))
        return _restored(target, "")
    finally:
        await journal.close()


async def _fill_shared(
    layers: Sequence[Layer],
    place: JournalPlace,
    directory: Path,
    snapshots: SnapshotFolder,
    key: SigningKey,
    tell: Tell,
    *,
    forced: bool,
) -> Restored:
    journal = await open_shared_journal(place)
    try:
        await check_filled(journal, await read_filling(journal), place.shown)
        if (tail := await journal.tail()) > 0:
            raise JournalFailed(
                f"{place.shown} holds a log up to position {tail}, which others may be writing; "
                "choose another name in it to rebuild into, or rebuild from the journal",
                path=place.shown,
                position=tail,
            )
        # A dry run first: an engine others reach is not filled with half a log.
        seen = Target()
        chosen = await rebuild_from_layers(layers, (key.public,), seen, tell)
        names = ", ".join(layer.name for layer in layers)
        list_aside = await check_list(directory, seen.state, None, key, names, forced=forced)

        async def as_it_is() -> Journal:
            raise JournalFailed(f"what {place.shown} was given cannot be taken back; empty it and begin again")

        await announce_filling(journal, seen.state.marks.position)
        target = JournalTarget(journal, as_it_is)
        await rebuild_from_layers(layers, (key.public,), target, tell, chosen=chosen, base=seen.began_at)
        snapshots.open()
        snapshots.write(describe(target.state, target.answered))
        return _restored(target, "", list_aside)
    finally:
        await journal.close()


def _fresh(unfinished: Path) -> SqliteJournal:
    """An empty journal in a directory of its own, whatever an earlier attempt has left there."""
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    return SqliteJournal(unfinished)


def _exchange(directory: Path, unfinished: Path) -> str:
    """Put the new journal in the old one's place. While `unfinished` exists nobody opens what is in between.

    What if it is killed between two renames? The rebuild that is run again moves aside whatever is still here, under a
    number that nothing has yet: of one database that can be two, and never is any of it beside the new journal.
    """
    aside = ""
    old = [directory / f"{FILE_NAME}{end}" for end in _BESIDE]
    if any(part.exists() for part in old):
        number = 1
        while any((directory / f"{FILE_NAME}.before-{number}{end}").exists() for end in _BESIDE):
            number += 1
        for part, end in zip(old, _BESIDE, strict=True):
            if part.exists():
                part.rename(directory / f"{FILE_NAME}.before-{number}{end}")
                _sync(directory)
        aside = str(directory / f"{FILE_NAME}.before-{number}")
    (unfinished / FILE_NAME).rename(directory / FILE_NAME)
    _sync(directory)
    shutil.rmtree(unfinished)
    _sync(directory)
    return aside


def _sync(directory: Path) -> None:
    """Have the disk keep what the directory lists, so that no rename is there without the one before it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restored(target: Target, aside: str, list_aside: str = "") -> Restored:
    marks = target.state.marks
    return Restored(
        position=marks.position,
        events=marks.sequence,
        state_digest=state_digest(target.state),
        aside=aside,
        list_aside=list_aside,
    )


def told_now_and_then(say: Callable[[str], None], monotonic_ms: Callable[[], int], every_ms: int) -> Tell:
    """A way to be told of progress that says a line no more often than this."""
    said_ms = monotonic_ms()

    def tell(progress: Progress) -> None:
        nonlocal said_ms
        if monotonic_ms() - said_ms < every_ms:
            return
        said_ms = monotonic_ms()
        looked_at = f", {progress.blobs} blobs looked at, {progress.passed_over} passed over" if progress.blobs else ""
        say(f"{progress.source}: position {progress.position}, {progress.events} events{looked_at}")

    return tell
