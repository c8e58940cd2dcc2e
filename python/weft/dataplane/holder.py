"""A node that holds objects, from the side of whoever brings it one or wants one: bytes go one-sided, by slot.

Both ends verify. A chunk is hashed before it is sent and after it was written; the whole is hashed by whoever ends up
with it, because only the object's own name says what its bytes should be. A holder that lies is found out at the last
chunk at the latest, before anything is kept or handed on as the object.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from weft.dataplane.endpoint import Advert, Endpoint, Peer
from weft.dataplane.exchange import (
    TOPIC,
    Chunk,
    Commit,
    Done,
    Fetch,
    Finish,
    Granted,
    Held,
    Offer,
    Request,
    Stage,
    Staged,
    decode_answer,
    encode,
)
from weft.model.errors import BadFrame, Cancelled, Disconnected, ObjectCorrupt, WeftError
from weft.model.object import ObjectHash, chunk_count, chunk_size
from weft.model.policy import CHUNK_BYTES, CONNECT_MS_MAX, transfer_ms_max

Kind = TypeVar("Kind")

ATTEMPTS_MAX: Final = 4
"""A connection that ends is no verdict on its node; four in a row are."""
# Letting go of a slot is a courtesy: a node takes it back by itself when it is not told.
_FAREWELL_MS: Final = 1_000


class Source(Protocol):
    """Where an object's bytes come from, chunk by chunk in order."""

    def read_chunk(self, index: int, into: memoryview) -> None:
        """Fill `into` with the chunk."""
        ...


class Sink(Protocol):
    """Where an object's bytes go, chunk by chunk in order."""

    def append(self, chunk: memoryview) -> None:
        """Take the next chunk."""
        ...


class Holder:
    """The way to one node's store. For one thread; a context manager that gives it up.

    Questions are asked over TCP; the bytes go whatever way the engine finds best between the two.

    `errand` is the caller's own number for a put or a get. It is the same when the same is begun anew after a
    connection was lost, so that the node does not keep a slot for an attempt nobody goes on with.
    """

    def __init__(self, peer: Peer, node_id: str) -> None:
        self._peer = peer
        self._node_id = node_id

    @classmethod
    def dial(cls, endpoint: Endpoint, node_id: str, host: str, port: int, timeout_ms: int = CONNECT_MS_MAX) -> Self:
        """Connects. Raises Unreachable, and what greeting raises."""
        return cls(endpoint.connect((host, port), timeout_ms=timeout_ms), node_id)

    def put(self, object_hash: ObjectHash, size_bytes: int, source: Source, errand: int) -> bool:
        """Has the node keep an object; it has verified and stored the whole when this returns. False: it was there.

        Raises what the node refuses with (StoreFull, StoreFailed, Busy) and what the way there fails with.
        """
        answer = self._ask(Offer(object_hash=object_hash, size_bytes=size_bytes, errand=errand), size_bytes)
        if isinstance(answer, Held):
            return False
        slot = _expect(answer, Granted)
        with self._transfer(slot):
            room = Advert(slot.advert)
            buffer = memoryview(bytearray(min(size_bytes, CHUNK_BYTES)))
            for index in range(chunk_count(size_bytes)):
                chunk = buffer[: chunk_size(size_bytes, index)]
                source.read_chunk(index, chunk)
                self._peer.write_now(room, chunk)
                digest = hashlib.sha256(chunk).digest()
                self._done(Chunk(transfer_id=slot.transfer_id, index=index, digest=digest))
            self._done(Commit(transfer_id=slot.transfer_id), size_bytes)
        return True

    def get(
        self,
        object_hash: ObjectHash,
        size_bytes: int,
        sink: Sink,
        errand: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Brings an object here. The sink has all of it, and it is the object, when this returns.

        Raises ObjectNotFound when the node holds no copy, and ObjectCorrupt when what it holds is not the object; the
        sink has been given wrong bytes then. `stopped` is asked between chunks whether to go on.
        """
        slot = _expect(self._ask(Fetch(object_hash=object_hash, errand=errand)), Granted)
        with self._transfer(slot):
            if slot.size_bytes != size_bytes:
                raise self._lies(object_hash, f"offers {slot.size_bytes} bytes for an object of {size_bytes}")
            room = Advert(slot.advert)
            whole = hashlib.sha256()
            buffer = memoryview(bytearray(min(size_bytes, CHUNK_BYTES)))
            for index in range(chunk_count(size_bytes)):
                if stopped():
                    raise Cancelled(f"the transfer of {object_hash} was given up")
                chunk = buffer[: chunk_size(size_bytes, index)]
                staged = _expect(self._ask(Stage(transfer_id=slot.transfer_id, index=index)), Staged)
                if staged.size_bytes != len(chunk):
                    raise self._lies(object_hash, f"staged {staged.size_bytes} bytes of a chunk of {len(chunk)}")
                self._peer.read_now(room, chunk)
                if hashlib.sha256(chunk).digest() != staged.digest:
                    raise self._lies(object_hash, f"sent other bytes of chunk {index} than it said")
                whole.update(chunk)
                sink.append(chunk)
            if whole.hexdigest() != object_hash:
                raise self._lies(object_hash, "sent bytes that are not the object")

    def close(self) -> None:
        """Gives the way up."""
        self._peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _transfer(self, slot: Granted) -> Iterator[None]:
        """The time in which a slot is ours. A put that was committed has none any more, and no harm is done."""
        try:
            yield
        finally:
            with contextlib.suppress(WeftError):
                self._peer.ask(TOPIC, encode(Finish(transfer_id=slot.transfer_id)), timeout_ms=_FAREWELL_MS)

    def _ask(self, request: Request, size_bytes: int = CHUNK_BYTES) -> Held | Granted | Staged | Done:
        payload = self._peer.ask(TOPIC, encode(request), timeout_ms=transfer_ms_max(size_bytes))
        return decode_answer(payload)

    def _done(self, request: Request, size_bytes: int = CHUNK_BYTES) -> None:
        _expect(self._ask(request, size_bytes), Done)

    def _lies(self, object_hash: ObjectHash, what: str) -> ObjectCorrupt:
        return ObjectCorrupt(f"node {self._node_id} {what}", hash=object_hash, node_id=self._node_id)


def persistently(work: Callable[[], Kind], attempts_max: int = ATTEMPTS_MAX) -> Kind:
    """The outcome of a transfer that is begun anew when its connection ends in the middle.

    A node that is gone refuses the next connection, so only one that is there is tried again.
    """
    for _ in range(attempts_max - 1):
        with contextlib.suppress(Disconnected):
            return work()
    return work()


def _expect(answer: object, kind: type[Kind]) -> Kind:
    if not isinstance(answer, kind):
        raise BadFrame(f"the answer was {type(answer).__name__}, and {kind.__name__} was due")
    return answer
