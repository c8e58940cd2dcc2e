"""Handoff files: how an engine that has come up tells of itself.

Whoever starts an engine writes `.runtime/engines/<pool>-<replica>.json` once it answers:

    {"pool_id": "pool-0", "replica_id": "r0", "engine": "llamacpp", "engine_version": "b4000",
     "url": "http://127.0.0.1:8081", "slots_total": 4, "slots_free": 4, "device_mask": "0", "pid": 4711}

A file is known by what it says and not by its name, so an engine that was started again under the same name is seen,
and so is a second pool in a file that used to be another's. What if it is read half written? It is no JSON then, and is
read again at the next look; `write_handoff` renames a whole file into place, so that whoever uses it has no such
moment. A file that is gone, or whose process is gone, takes its replica along; the last one of a pool stays behind as
not ready, since that there was one is worth showing.

Reading and deciding only; who looks, how often, and what follows is the business of the processes that use this.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from weft.model.policy import COUNT_MAX, MODELS_MAX, POOLS_MAX
from weft.model.pool import DEFAULT_POOL_ID, DEFAULT_REPLICA_ID, PoolSnapshot, Seat, parse_device_mask

FILE_BYTES_MAX: Final = 65_536
"""A handoff is a few hundred bytes; a longer file is something else."""

_LOOKS_DOUBTED: Final = 2
"""How often a file is found to say the same nonsense before somebody is told: whoever writes one is done sooner."""

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
# A bare `$` would let a line end follow. What a file may say is what a beat may say: one that said more would have
# every beat of its node refused for as long as it lies there.
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,256}$(?!\n)")]


class Handoff(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. Fields nobody knows are ignored: engines and their starters write more than is read here.

    `slots` is what older starters call `slots_total`. Without a `pid` nobody can tell whether the engine still lives,
    and the file alone counts.
    """

    url: Annotated[str, Meta(pattern="^https?://[^/\\s]+.*$(?!\n)", max_length=2_048)]
    pool_id: Name = DEFAULT_POOL_ID
    replica_id: Name = DEFAULT_REPLICA_ID
    engine: Text | None = None
    engine_version: Text | None = None
    device_mask: Annotated[str, Meta(max_length=256)] | None = None
    slots: Count | None = None
    slots_total: Count | None = None
    slots_free: Count | None = None
    vram_free_bytes: Count = 0
    models_available: Annotated[list[Text], Meta(max_length=MODELS_MAX)] = []
    draining: bool = False
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class HandoffFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file and what it said when it was read whole."""

    name: str
    handoff: Handoff


Stamp = tuple[int, int, int]

_decoder: Final = msgspec.json.Decoder(Handoff)


class HandoffDirectory:
    """A directory of handoff files, looked at now and then. A file that has not changed is not read again.

    `refuse` is told of a file that cannot be read, and why, once for each that stays the same from one look to the
    next: one that is half written will be another by then.
    """

    def __init__(self, path: Path, refuse: Callable[[Path, str], None] | None = None) -> None:
        self._path = path
        self._refuse = refuse
        self._read: dict[str, tuple[Stamp, Handoff]] = {}
        self._unreadable: dict[str, tuple[Stamp, int]] = {}

    def look(self) -> list[HandoffFile]:
        """What the directory says now, in order of name. A directory that is not there says nothing."""
        try:
            names = sorted(entry.name for entry in self._path.iterdir() if entry.suffix == ".json")
        except OSError:
            names = []
        kept: dict[str, tuple[Stamp, Handoff]] = {}
        for name in names[:POOLS_MAX]:
            found = self._read_changed(name)
            if found is not None:
                kept[name] = found
        self._read = kept
        self._unreadable = {name: one for name, one in self._unreadable.items() if name in names}
        return [HandoffFile(name=name, handoff=handoff) for name, (_, handoff) in kept.items()]

    def _read_changed(self, name: str) -> tuple[Stamp, Handoff] | None:
        known = self._read.get(name)
        try:
            with (self._path / name).open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if known is not None and known[0] == stamp:
                    return known
                raw = file.read(FILE_BYTES_MAX + 1)
        except OSError:
            return None
        try:
            if len(raw) > FILE_BYTES_MAX:
                raise msgspec.DecodeError(f"it has more than {FILE_BYTES_MAX} bytes")
            handoff = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Half written, most likely: what it said before holds until it says something again.
            before, looks = self._unreadable.get(name, (stamp, 0))
            looks = looks + 1 if before == stamp else 1
            self._unreadable[name] = stamp, looks
            if looks == _LOOKS_DOUBTED and self._refuse is not None:
                self._refuse(self._path / name, str(error))
            return known
        self._unreadable.pop(name, None)
        return stamp, handoff


class EnginePools:
    """The pools of one machine, each replica as its handoff file describes it. `see` says whether anything changed.

    `promised` are pools the machine is known to have before any engine is up.
    """

    def __init__(self, promised: Iterable[str] = ()) -> None:
        self._pools: dict[Seat, PoolSnapshot] = {one.seat: one for one in map(_empty, promised)}

    def see(self, files: Iterable[HandoffFile], is_alive: Callable[[int], bool]) -> bool:
        """Take in a look. A pool that no file of a living engine describes is not ready.

        Of two files for one replica the last by name counts: an engine that took over from another may leave its file.
        """
        living = [one.handoff for one in files if one.handoff.pid is None or is_alive(one.handoff.pid)]
        seen = {snapshot.seat: snapshot for snapshot in map(to_snapshot, living)}
        described = {pool_id for pool_id, _ in seen}
        for pool in self._pools.values():
            if pool.pool_id not in described:
                described.add(pool.pool_id)
                seen[pool.seat] = _unready(pool)
        changed = seen != self._pools
        # Those that are ready come first, so that the bound never leaves one out for one that is gone.
        self._pools = dict(list(seen.items())[:POOLS_MAX])
        return changed

    def snapshots(self, *, draining: bool = False) -> list[PoolSnapshot]:
        """Every replica of every pool, in order of both; all of them draining when the machine is."""
        pools = [self._pools[seat] for seat in sorted(self._pools)]
        return [msgspec.structs.replace(pool, draining=True) for pool in pools] if draining else pools

    @property
    def busy_slots(self) -> int:
        """How many slots have work in them, as far as the files say."""
        return sum(pool.slots_total - pool.slots_free for pool in self._pools.values() if pool.ready)


def to_snapshot(handoff: Handoff) -> PoolSnapshot:
    """The replica an engine makes ready. One that does not count its slots has one."""
    total = handoff.slots_total if handoff.slots_total is not None else handoff.slots
    total = 1 if total is None else total
    return PoolSnapshot(
        pool_id=handoff.pool_id,
        ready=True,
        draining=handoff.draining,
        slots_free=min(total, total if handoff.slots_free is None else handoff.slots_free),
        slots_total=total,
        vram_free_bytes=handoff.vram_free_bytes,
        engine=handoff.engine,
        models_available=tuple(handoff.models_available),
        devices=parse_device_mask(handoff.device_mask) if handoff.device_mask is not None else None,
        replica_id=handoff.replica_id,
        url=handoff.url,
    )


def write_handoff(directory: Path, handoff: Handoff) -> Path:
    """Write a file whole or not at all: under another name first, and renamed into place."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{handoff.pool_id}-{handoff.replica_id}.json"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fields: Mapping[str, Any] = msgspec.to_builtins(handoff)
    draft.write_bytes(msgspec.json.encode({name: value for name, value in fields.items() if value is not None}))
    draft.replace(path)
    return path


def process_is_alive(pid: int) -> bool:
    """Whether there is such a process on this machine. One that ended and was not waited for is not."""
    try:
        # A process may call itself by any bytes, and the kernel cuts a long name in the middle of a letter.
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _empty(pool_id: str) -> PoolSnapshot:
    return PoolSnapshot(pool_id=pool_id, ready=False, slots_free=0, slots_total=0)


def _unready(pool: PoolSnapshot) -> PoolSnapshot:
    """A pool whose engine is gone."""
    return msgspec.structs.replace(pool, ready=False, slots_free=0, vram_free_bytes=0, url=None)
