"""Transfers: objects on their way into this node's store or out of it, and what each request about one comes to.

A transfer has a slot from its first answer to its end. There are few slots, so who finds none waits in line, and is
answered when it is their turn; the line has an end too. A peer that falls silent loses its slot, or a handful of
crashed clients would keep everybody else out.

No threads here and no network: requests come in as values and answers go out as values, from whatever thread the caller
uses. One transfer is worked on by one thread at a time, several transfers by several.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from weft.agent.staging import Slot, Staging
from weft.agent.store import Draft, Store
from weft.dataplane.exchange import (
    Answer,
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
    refusal,
)
from weft.model.errors import BadFrame, Busy, ObjectCorrupt, ObjectNotFound, UnknownHandle, WeftError
from weft.model.object import ObjectHash, chunk_count, chunk_size
from weft.model.policy import CHUNK_BYTES, STAGING_IDLE_MS, STAGING_WAITING_MAX, TRANSFER_MS_BASE

Whom = TypeVar("Whom")

_FULL: Final = "every staging slot of this node is taken, and the line for them is long; try again"


class _Transfer:
    """One object on its way. `draft` is where it is received, None when it goes out."""

    def __init__(self, sender: str, request: Offer | Fetch, size_bytes: int, slot: Slot, draft: Draft | None) -> None:
        self.sender = sender
        self.errand = request.errand
        self.object_hash = request.object_hash
        self.size_bytes = size_bytes
        self.slot = slot
        self.draft = draft
        self.next_index = 0
        self.heard_at_ms = 0
        self.lock = threading.Lock()


class Waiting(Generic[Whom]):
    """Somebody in line for a slot."""

    def __init__(self, sender: str, request: Offer | Fetch, whom: Whom, since_ms: int) -> None:
        self.sender = sender
        self.request = request
        self.whom = whom
        self.since_ms = since_ms


class Transfers(Generic[Whom]):
    """The transfers of one node. `whom` is whatever the caller answers by; it is handed back with a deferred answer.

    `stored` is told of every object that came in and was verified; `found_corrupt` of one that was to go out and is not
    what it should be.
    """

    def __init__(
        self,
        store: Store,
        staging: Staging,
        *,
        now_ms: Callable[[], int],
        stored: Callable[[ObjectHash], None],
        found_corrupt: Callable[[ObjectHash], None],
    ) -> None:
        self._store = store
        self._staging = staging
        self._now_ms = now_ms
        self._stored = stored
        self._found_corrupt = found_corrupt
        self._lock = threading.Lock()
        self._transfers: dict[int, _Transfer] = {}
        self._line: deque[Waiting[Whom]] = deque()
        self._begun = 0

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._transfers)

    def handle(self, sender: str, request: Request, whom: Whom) -> Answer | None:
        """The answer to a request, or None when it has to wait for its turn: `next_in_line` gives it back then."""
        try:
            if isinstance(request, Offer | Fetch):
                return self._begin(sender, request, whom)
            return self._go_on(sender, request)
        except WeftError as error:
            return refusal(error)

    def next_in_line(self) -> Waiting[Whom] | None:
        """Who may begin now, taken out of the line; their request is handled anew."""
        with self._lock:
            return self._line.popleft() if self._line and self._staging.has_room else None

    def expire(self) -> list[Waiting[Whom]]:
        """Take the slots of peers that fell silent, and give back who stood in line for too long."""
        now_ms = self._now_ms()
        for transfer_id, transfer in list(self._transfers.items()):
            # One that is being worked on is not silent, however long the disk takes.
            if now_ms - transfer.heard_at_ms > STAGING_IDLE_MS and transfer.lock.acquire(blocking=False):
                try:
                    self._end(transfer_id)
                finally:
                    transfer.lock.release()
        late: list[Waiting[Whom]] = []
        with self._lock:
            while self._line and now_ms - self._line[0].since_ms > TRANSFER_MS_BASE:
                late.append(self._line.popleft())
        return late

    def close(self) -> None:
        """End every transfer; what was received of them is thrown away."""
        for transfer_id in list(self._transfers):
            self._end(transfer_id)

    def _begin(self, sender: str, request: Offer | Fetch, whom: Whom) -> Answer | None:
        held_bytes = self._store.size_of(request.object_hash)
        if isinstance(request, Offer):
            size_bytes = request.size_bytes
            if held_bytes is not None:
                # Said again, in case the first report of it never left this node.
                self._stored(request.object_hash)
                return Held()
        elif held_bytes is None:
            raise ObjectNotFound(f"no copy of {request.object_hash} is kept here", hash=request.object_hash)
        else:
            size_bytes = held_bytes
        self._end_earlier(sender, request.errand)
        with self._lock:
            if not self._staging.has_room:
                if len(self._line) >= STAGING_WAITING_MAX:
                    raise Busy(_FULL)
                self._line.append(Waiting(sender, request, whom, self._now_ms()))
                return None
            slot = self._staging.take()
        draft: Draft | None = None
        try:
            if isinstance(request, Offer):
                draft = self._store.begin(request.object_hash, size_bytes)
            advert = slot.open(size_bytes, write=draft is not None)
        except BaseException:
            if draft is not None:
                draft.discard()
            with self._lock:
                self._staging.give_back(slot)
            raise
        transfer = _Transfer(sender, request, size_bytes, slot, draft)
        transfer.heard_at_ms = self._now_ms()
        with self._lock:
            self._begun += 1
            transfer_id = self._begun
            self._transfers[transfer_id] = transfer
        return Granted(
            transfer_id=transfer_id,
            size_bytes=size_bytes,
            slot=slot.name,
            advert=advert,
        )

    def _go_on(self, sender: str, request: Chunk | Commit | Stage | Finish) -> Answer:
        transfer = self._transfers.get(request.transfer_id)
        if transfer is None or transfer.sender != sender:
            if isinstance(request, Finish):
                # It is over already, which is what was wanted.
                return Done()
            raise UnknownHandle("this transfer is over, or fell silent for too long; begin it anew")
        with transfer.lock:
            if request.transfer_id not in self._transfers:
                raise UnknownHandle("this transfer is over; begin it anew")
            transfer.heard_at_ms = self._now_ms()
            try:
                answer = self._step(transfer, request)
            except BaseException:
                self._end(request.transfer_id)
                raise
            if isinstance(request, Commit | Finish):
                self._end(request.transfer_id)
            transfer.heard_at_ms = self._now_ms()
            return answer

    def _step(self, transfer: _Transfer, request: Chunk | Commit | Stage | Finish) -> Answer:
        draft = transfer.draft
        if isinstance(request, Stage):
            if draft is not None:
                raise BadFrame("an object that is being put is not read")
            return self._stage(transfer, request.index)
        if isinstance(request, Finish):
            return Done()
        if draft is None:
            raise BadFrame("an object that is being read is not written")
        if isinstance(request, Chunk):
            self._take_in(transfer, draft, request)
        else:
            draft.commit()
            self._stored(transfer.object_hash)
        return Done()

    def _stage(self, transfer: _Transfer, index: int) -> Answer:
        if not 0 <= index < chunk_count(transfer.size_bytes):
            raise BadFrame(f"an object of {transfer.size_bytes} bytes has no chunk {index}")
        chunk = memoryview(bytearray(chunk_size(transfer.size_bytes, index)))
        try:
            digest = self._store.read_chunk(transfer.object_hash, index, chunk)
        except ObjectCorrupt:
            self._found_corrupt(transfer.object_hash)
            raise
        transfer.slot.load(chunk)
        return Staged(size_bytes=len(chunk), digest=digest)

    def _take_in(self, transfer: _Transfer, draft: Draft, request: Chunk) -> None:
        if request.index != transfer.next_index or request.index >= chunk_count(transfer.size_bytes):
            raise BadFrame(f"chunk {transfer.next_index} is due, not {request.index}")
        chunk = memoryview(bytearray(min(CHUNK_BYTES, chunk_size(transfer.size_bytes, request.index))))
        transfer.slot.unload(chunk)
        if hashlib.sha256(chunk).digest() != request.digest:
            raise ObjectCorrupt(
                f"chunk {request.index} of {transfer.object_hash} did not arrive as it was sent",
                hash=transfer.object_hash,
            )
        draft.append(chunk)
        transfer.next_index += 1

    def _end_earlier(self, sender: str, errand: int) -> None:
        """Whoever begins an errand anew has lost the connection of the earlier attempt, and will not go on with it."""
        for transfer_id, transfer in list(self._transfers.items()):
            is_same = transfer.sender == sender and transfer.errand == errand
            if is_same and transfer.lock.acquire(blocking=False):
                try:
                    self._end(transfer_id)
                finally:
                    transfer.lock.release()

    def _end(self, transfer_id: int) -> None:
        with self._lock:
            transfer = self._transfers.pop(transfer_id, None)
            if transfer is None:
                return
            self._staging.give_back(transfer.slot)
        if transfer.draft is not None:
            transfer.draft.discard()
