"""Putting and getting objects: the client's side, node by node over the engine. No byte goes through the coordinator.

A put goes to every target at once, each in a thread of its own with a reader of its own, so that a node that is slow,
or waits for a slot, holds up nobody else. A target that fails is replaced by another while there is one. The put is
done when a majority of the wanted copies are on disks; what is missing then is the coordinator's to heal. Where the
cluster has fewer nodes that keep objects than copies are wanted, it is a majority of those: nodes that are silent, full
or new count among them, so that a cluster which has lost most of its nodes is never taken for a small one.

A get asks one holder after the other until the bytes are the object. A holder whose bytes are not is told on, so that
it looks at its copy, and the next one is asked.
"""

import contextlib
import hashlib
import os
import random
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from weft.api.bodies.object import ObjectInfo
from weft.client.coordinator import addresses
from weft.client.flow import Flow, Pause, now
from weft.dataplane import Holder, Sink, Source, persistently
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import (
    BadArgument,
    ObjectConflict,
    ObjectCorrupt,
    ObjectNotFound,
    ObjectNotStored,
    ObjectUnavailable,
    WeftError,
)
from weft.model.object import ObjectHash, parse_object_hash
from weft.model.policy import CHUNK_BYTES

if TYPE_CHECKING:
    from weft.client.cluster import Cluster

_TARGETS_AT_ONCE: Final = 8
"""Threads of one put; each keeps a chunk in memory."""
_TOLD_S: Final = 10.0
"""How long a put waits for the coordinator to have heard of the copies it made. It is done either way."""
_LOOK_AGAIN_S: Final = 0.5
_ERRAND_BITS: Final = 63


class Origin(Protocol):
    """The bytes of an object that is put: opened once for each node they go to."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        ...

    def open(self) -> contextlib.AbstractContextManager[Source]:
        """A reader of one's own."""
        ...


class Stored(Struct, frozen=True, kw_only=True):
    """What became of a put. `nodes` have the object on their disks; `reasons` say why other nodes do not.

    `wanted` is how many copies there should be: more than there are nodes, where the cluster is small.
    """

    object_hash: ObjectHash
    size_bytes: int
    wanted: int
    nodes: tuple[str, ...]
    reasons: Mapping[str, str]


class FileOrigin:
    """A file. It must not change while it is put; if it does, no node keeps it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._size_bytes = path.stat().st_size
            with path.open("rb") as file:
                self.object_hash = ObjectHash(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise BadArgument(f"{path} cannot be read: {error.strerror}") from error

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self._size_bytes

    @contextlib.contextmanager
    def open(self) -> Iterator[Source]:
        """A reader of one's own."""
        with self._path.open("rb", buffering=0) as file:
            yield _FileSource(file.fileno())


class BytesOrigin:
    """Bytes in memory."""

    def __init__(self, content: "bytes | bytearray | memoryview") -> None:
        self._content = memoryview(content).cast("B")
        self.object_hash = ObjectHash(hashlib.sha256(self._content).hexdigest())

    @property
    def size_bytes(self) -> int:
        """How many."""
        return len(self._content)

    @contextlib.contextmanager
    def open(self) -> Iterator[Source]:
        """A reader of one's own."""
        yield _BytesSource(self._content)


class Objects:
    """The objects of a cluster, from one process."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster

    def put(self, content: "str | os.PathLike[str] | bytes | bytearray | memoryview", replicas: int) -> Stored:
        """Stores an object on as many nodes. Raises `ObjectNotStored` when not even a majority could be had."""
        if replicas < 1:
            raise BadArgument(f"an object has at least one copy, not {replicas}")
        in_memory = isinstance(content, bytes | bytearray | memoryview)
        origin = BytesOrigin(content) if in_memory else FileOrigin(Path(content))  # type: ignore[arg-type]
        object_hash, size_bytes = origin.object_hash, origin.size_bytes
        coordinator = self._cluster.coordinator
        self._cluster.ask(coordinator.register_object(object_hash, size_bytes, replicas))
        registered = self._cluster.ask(coordinator.object(object_hash))
        if registered.size != size_bytes:
            raise ObjectConflict(
                f"object {object_hash} is registered with {registered.size} bytes and has {size_bytes}",
                hash=object_hash,
                size_bytes=size_bytes,
                registered_bytes=registered.size,
            )
        stored, reasons = self._put_on_targets(object_hash, origin, registered.rf)
        if 2 * len(stored) <= min(registered.rf, len(stored) + len(reasons)) or not stored:
            # The hash stays registered: nobody can tell whether somebody else is putting it at this moment.
            why = "; ".join(f"{node_id}: {reason}" for node_id, reason in reasons.items())
            raise ObjectNotStored(
                f"object {object_hash} is on {len(stored)} of {registered.rf} nodes: "
                f"{why or 'no node keeps objects here'}; put it again, or take it out of the books with "
                "`weft object remove`",
                hash=object_hash,
                nodes=stored,
                reasons=reasons,
            )
        self._cluster.ask(_await_holders(self._cluster, object_hash, frozenset(stored)))
        return Stored(
            object_hash=object_hash,
            size_bytes=size_bytes,
            wanted=registered.rf,
            nodes=tuple(stored),
            reasons=reasons,
        )

    def get(self, object_hash: str, into: "str | os.PathLike[str] | bytearray | memoryview | None") -> "bytes | int":
        """Brings an object here, verified: to a file, into a buffer, or as bytes. A file appears whole or not."""
        name = parse_object_hash(object_hash)
        found = self.locate(name)
        if into is None:
            buffer = bytearray(found.size)
            self._get(found, lambda: _BufferSink(memoryview(buffer)))
            return bytes(buffer)
        if isinstance(into, bytearray | memoryview):
            target = memoryview(into).cast("B")
            if len(target) < found.size:
                raise BadArgument(f"the object has {found.size} bytes and the buffer {len(target)}")
            self._get(found, lambda: _BufferSink(target))
            return found.size
        self._get_into_file(found, Path(into))
        return found.size

    def remove(self, object_hash: str) -> None:
        """Lets there be no such object any more; its holders free the room by themselves. Raises `ObjectNotFound`."""
        name = parse_object_hash(object_hash)
        try:
            self._cluster.ask(self._cluster.coordinator.delete_object(name))
        except ObjectNotFound as error:
            raise _never_put(name) from error

    def locate(self, object_hash: str) -> ObjectInfo:
        """Where an object is. Raises `ObjectNotFound`."""
        name = parse_object_hash(object_hash)
        try:
            return self._cluster.ask(self._cluster.coordinator.object(name))
        except ObjectNotFound as error:
            raise _never_put(name) from error

    def _put_on_targets(
        self, object_hash: ObjectHash, origin: "FileOrigin | BytesOrigin", wanted: int
    ) -> tuple[list[str], dict[str, str]]:
        """The nodes that have it, and why the others have not: those that were tried, and those nobody could try."""
        stored: list[str] = []
        reasons: dict[str, str] = {}
        passed_over: dict[str, str] = {}
        caller = self._cluster.caller()
        with ThreadPoolExecutor(_TARGETS_AT_ONCE, thread_name_prefix="weft put") as threads:
            while len(stored) < wanted:
                coordinator = self._cluster.coordinator
                answer = self._cluster.ask(coordinator.object_targets(object_hash, sorted(reasons)))
                passed_over = answer.passed_over
                fresh = [node_id for node_id in answer.targets if node_id not in stored][: wanted - len(stored)]
                if not fresh:
                    break
                where = self._addresses()
                tries = {
                    node_id: threads.submit(_put_on, caller, node_id, where, object_hash, origin) for node_id in fresh
                }
                for node_id, attempt in tries.items():
                    try:
                        attempt.result()
                        stored.append(node_id)
                    except WeftError as error:
                        reasons[node_id] = str(error)
        others = {node_id: why for node_id, why in passed_over.items() if node_id not in stored}
        return sorted(stored), {**others, **reasons}

    def _get(self, found: ObjectInfo, open_sink: "Callable[[], Sink]") -> None:
        """The object into a fresh sink from the first holder that has it."""
        object_hash = ObjectHash(found.hash)
        caller, where = self._cluster.caller(), self._addresses()
        holders = list(found.replicas)
        # Many readers of one object should not all begin with the same holder.
        random.shuffle(holders)
        reasons: dict[str, str] = {}
        for node_id in holders:
            try:
                _get_from(caller, node_id, where, found, open_sink)
            except (ObjectCorrupt, ObjectNotFound) as error:
                reasons[node_id] = str(error)
                self._tell_on(object_hash, node_id)
            except WeftError as error:
                reasons[node_id] = str(error)
            else:
                return
        why = "; ".join(f"{node_id}: {reason}" for node_id, reason in reasons.items())
        raise ObjectUnavailable(
            f"object {object_hash} cannot be had now: {why or 'no node that is there holds a copy'}",
            hash=object_hash,
            reasons=reasons,
        )

    def _get_into_file(self, found: ObjectInfo, path: Path) -> None:
        try:
            descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            raise BadArgument(f"{path} cannot be written: {error.strerror}") from error
        try:
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 — it is a descriptor.
                self._get(found, lambda: _FileSink(file.fileno()))
                os.fsync(file.fileno())
            Path(beside).replace(path)
        except OSError as error:
            raise BadArgument(f"{path} cannot be written: {error.strerror}") from error
        finally:
            Path(beside).unlink(missing_ok=True)

    def _tell_on(self, object_hash: ObjectHash, node_id: str) -> None:
        """What a holder gave is not the object. It will look; whether it hears is not this reader's concern."""
        with contextlib.suppress(WeftError):
            self._cluster.ask(self._cluster.coordinator.mark_missing(object_hash, node_id))

    def _addresses(self) -> dict[str, tuple[str, int]]:
        listed = addresses(self._cluster.ask(self._cluster.coordinator.endpoints()))
        return {node_id: (host, port) for node_id, host, port in listed}


class _FileSource:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_chunk(self, index: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self._descriptor, [into[done:]], index * CHUNK_BYTES + done)
            if count == 0:
                raise BadArgument("the file became shorter while it was put")
            done += count


class _BytesSource:
    def __init__(self, content: memoryview) -> None:
        self._content = content

    def read_chunk(self, index: int, into: memoryview) -> None:
        into[:] = self._content[index * CHUNK_BYTES :][: len(into)]


class _BufferSink:
    def __init__(self, target: memoryview) -> None:
        self._target = target
        self._done = 0

    def append(self, chunk: memoryview) -> None:
        self._target[self._done : self._done + len(chunk)] = chunk
        self._done += len(chunk)


class _FileSink:
    """From the start of the file: what an earlier holder sent is overwritten."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        self._done = 0

    def append(self, chunk: memoryview) -> None:
        while chunk:
            count = os.pwrite(self._descriptor, chunk, self._done)
            self._done += count
            chunk = chunk[count:]


def _never_put(name: ObjectHash) -> ObjectNotFound:
    return ObjectNotFound(f"no object {name} was ever put here, or it was removed", hash=name)


def _dial(caller: Endpoint, node_id: str, where: Mapping[str, tuple[str, int]]) -> Holder:
    address = where.get(node_id)
    if address is None:
        raise ObjectUnavailable(f"nobody said where node {node_id} is")
    return Holder.dial(caller, node_id, *address)


def _get_from(
    caller: Endpoint,
    node_id: str,
    where: Mapping[str, tuple[str, int]],
    found: ObjectInfo,
    open_sink: Callable[[], Sink],
) -> None:
    errand = secrets.randbits(_ERRAND_BITS)

    def anew() -> None:
        with _dial(caller, node_id, where) as holder:
            holder.get(ObjectHash(found.hash), found.size, open_sink(), errand)

    persistently(anew)


def _put_on(
    caller: Endpoint,
    node_id: str,
    where: Mapping[str, tuple[str, int]],
    object_hash: ObjectHash,
    origin: Origin,
) -> None:
    errand = secrets.randbits(_ERRAND_BITS)

    def anew() -> None:
        with _dial(caller, node_id, where) as holder, origin.open() as source:
            holder.put(object_hash, origin.size_bytes, source, errand)

    persistently(anew)


def _await_holders(cluster: "Cluster", object_hash: ObjectHash, nodes: frozenset[str]) -> Flow[None]:
    """Until the coordinator has heard from every one of these nodes, or it has taken too long to matter."""
    deadline_s = (yield from now()) + _TOLD_S
    pause_s = 0.01
    while True:
        found = yield from cluster.coordinator.object(object_hash)
        if nodes <= {*found.replicas, *found.offline} or (yield from now()) > deadline_s:
            return
        yield Pause(pause_s)
        pause_s = min(2 * pause_s, _LOOK_AGAIN_S)
