"""Submitting: one transaction at a time, with all that came while the one before it was on its way to a block.

A submission has no key of its own: one whose answer was lost may still land. So before anything is sent, what is sent
and how high the chain stands is noted on the disk, and what was noted and not seen to arrive is looked for from there
to the head before it is sent again, by this process or by the next. What is then still sent twice is the same blob
twice, and readers go by commitments.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from weft.ledger.archive import Archive, Place
from weft.ledger.layer import Commitment
from weft.ledger.layers.celestia.chain import LAYER, Chain
from weft.ledger.layers.celestia.deadline import Deadline
from weft.ledger.layers.celestia.node import Node
from weft.ledger.layers.celestia.rpc import CallFailed, Meaning
from weft.model.errors import BlobTooLarge, Closed, LayerFailed, LayerRefused, LayerUnknown, WeftError
from weft.model.policy import (
    CELESTIA_GROUP_BLOBS_MAX,
    CELESTIA_GROUP_BYTES_MAX,
    CELESTIA_LANDING_BLOCKS,
    CELESTIA_WAITING_MAX,
)


class Submission:
    """A blob on its way, and how many wait for it. `was_sent` says whether a node may have it."""

    def __init__(self, commitment: Commitment, data: bytes, mark: bytes, future: "asyncio.Future[int]") -> None:
        self.commitment = commitment
        self.data = data
        self.mark = mark
        self.future = future
        self.waiter_count = 0
        self.was_sent = False


class Submitter:
    """Sends blobs, in the order in which they came."""

    def __init__(
        self, node: Node, chain: Chain, archive: Archive, new_deadline: Callable[[], Deadline], poll_ms: int
    ) -> None:
        self._node = node
        self._chain = chain
        self._archive = archive
        self._new_deadline = new_deadline
        self._poll_ms = poll_ms
        self._waiting: deque[Submission] = deque()
        self._under_way: dict[bytes, Submission] = {}
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, commitment: Commitment, data: bytes, mark: bytes, deadline: Deadline) -> int:
        """The height at which a blob stands. Raises `LayerFailed`, `LayerUnknown`, `LayerRefused`."""
        if self._closed:
            raise Closed("the celestia layer is closed")
        # Two who put the same blob wait for one submission. Who joined one that ended badly has time left for another.
        if (joined := self._under_way.get(mark)) is not None:
            try:
                return await self._wait(joined, deadline)
            except LayerUnknown:
                if joined.future.done() and deadline.left_ms > 0:
                    return await self.submit(commitment, data, mark, deadline)
                raise
        return await self._wait(self._begin(commitment, data, mark), deadline)

    async def _wait(self, one: Submission, deadline: Deadline) -> int:
        one.waiter_count += 1
        try:
            async with asyncio.timeout(deadline.check() / 1_000):
                return await asyncio.shield(one.future)
        except TimeoutError as error:
            if one.was_sent:
                raise unknown(one.commitment, "no block had it in time") from error
            raise LayerFailed("the blob's turn to be submitted did not come in time", layer=LAYER) from error
        finally:
            one.waiter_count -= 1

    def _begin(self, commitment: Commitment, data: bytes, mark: bytes) -> Submission:
        if len(self._waiting) >= CELESTIA_WAITING_MAX:
            raise LayerFailed(f"{CELESTIA_WAITING_MAX} blobs wait for a block already; try again", layer=LAYER)
        one = Submission(commitment, data, mark, asyncio.get_running_loop().create_future())
        one.future.add_done_callback(lambda future: self._end(mark, future))
        self._waiting.append(one)
        self._under_way[mark] = one
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="celestia submissions")
        return one

    def _end(self, mark: bytes, future: "asyncio.Future[int]") -> None:
        del self._under_way[mark]
        if not future.cancelled():
            # Whoever waited may have left; then nobody is to hear of it.
            future.exception()

    async def close(self) -> None:
        """Give up on what is under way."""
        self._closed = True
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        for one in self._waiting:
            _fail(one, Closed("the celestia layer was closed"))

    async def _work(self) -> None:
        group: list[Submission] = []
        try:
            while group := self._take():
                try:
                    await self._submit(group, self._new_deadline())
                except WeftError as error:
                    for one in group:
                        _fail(one, error)
        finally:
            self._working = None
            for one in group:
                # Only when the work itself ended in the middle of it.
                _fail(one, unknown(one.commitment, "submitting ended") if one.was_sent else Closed("submitting ended"))

    def _take(self) -> list[Submission]:
        """The next group: as many as fit into a transaction, those that nobody waits for any more left out."""
        group: list[Submission] = []
        size_bytes = 0
        while self._waiting and len(group) < CELESTIA_GROUP_BLOBS_MAX:
            one = self._waiting[0]
            if one.waiter_count == 0:
                one.future.cancel()
            elif not one.future.done():
                size_bytes += len(one.data)
                if group and size_bytes > CELESTIA_GROUP_BYTES_MAX:
                    break
                group.append(one)
            self._waiting.popleft()
        return group

    async def _submit(self, group: Sequence[Submission], deadline: Deadline) -> None:
        sent_before = await self._archive.sent([one.mark for one in group])
        group = await self._settle(group, sent_before, deadline)
        if not group:
            return
        height_before = await self._chain.head(deadline)
        await self._archive.note_sent([one.mark for one in group], height_before)
        for one in group:
            one.was_sent = True
        try:
            height = await self._node.submit([(one.data, one.mark) for one in group], deadline.check())
        except CallFailed as error:
            if error.meaning is not Meaning.UNKNOWN:
                await self._archive.forget_sent([one.mark for one in group if one.mark not in sent_before])
                if error.is_too_large and len(group) > 1:
                    await self._submit_halves(group)
                    return
                raise _certain(error, group) from error
            await self._wait_for(group, error, height_before, deadline)
            return
        await self._archive.note(
            [Place(height, ordinal, one.commitment, one.mark) for ordinal, one in enumerate(group)]
        )
        for one in group:
            _succeed(one, height)

    async def _submit_halves(self, group: Sequence[Submission]) -> None:
        """Together they are more than the node takes at once."""
        half = len(group) // 2
        for part in (group[:half], group[half:]):
            try:
                await self._submit(part, self._new_deadline())
            except WeftError as error:
                for one in part:
                    _fail(one, error)

    async def _settle(
        self, group: Sequence[Submission], sent: Mapping[bytes, int], deadline: Deadline
    ) -> Sequence[Submission]:
        """Look for those that were sent before and never seen to arrive; what is left is still to be sent.

        A block or two are waited for: what was sent a moment ago is most likely to land in the next one.
        """
        if not sent:
            return group
        for one in group:
            one.was_sent = one.mark in sent
        first, settled_at = min(sent.values()) + 1, max(sent.values()) + CELESTIA_LANDING_BLOCKS
        heights: dict[bytes, int] = {}
        while True:
            head = await self._chain.head(deadline)
            # What stands at a height that was read has its place, and would not be looked for. So a try that had not
            # the time for all heights is gone on from, and not begun again.
            covered = await self._archive.covered()
            if covered.first <= first <= covered.last <= head:
                first = covered.last + 1
            heights |= await self._chain.look_for(sent.keys(), first, deadline)
            if len(heights) == len(sent) or head >= settled_at:
                break
            await deadline.pause(self._poll_ms)
        for one in group:
            # Whoever else reads the chain may have come upon it meanwhile.
            if one.mark in sent and one.mark not in heights:
                place = await self._archive.place_of(one.commitment)
                if place is not None and place.height > sent[one.mark]:
                    heights[one.mark] = place.height
        for one in group:
            if one.mark in heights:
                _succeed(one, heights[one.mark])
        return [one for one in group if one.mark not in heights]

    async def _wait_for(
        self, group: Sequence[Submission], error: CallFailed, height_before: int, deadline: Deadline
    ) -> None:
        """A submission that may have landed, or may yet: it is looked for until time is up."""
        missing = {one.mark: one for one in group}
        while missing and deadline.left_ms > 0:
            try:
                heights = await self._chain.look_for(missing.keys(), height_before + 1, deadline)
            except LayerFailed:
                heights = {}
            for mark, height in heights.items():
                _succeed(missing.pop(mark), height)
            if not any(one.waiter_count for one in missing.values()):
                break
            await deadline.pause(self._poll_ms)
        for one in missing.values():
            _fail(one, unknown(one.commitment, str(error)))


def unknown(commitment: Commitment, why: str) -> LayerUnknown:
    """The error of a blob that may stand on the chain, or may yet."""
    return LayerUnknown(
        f"{why}, and blob {commitment} may still land; put it again, and it is looked for first",
        layer=LAYER,
        commitment=commitment,
    )


def _certain(error: CallFailed, group: Sequence[Submission]) -> LayerFailed:
    """The error of blobs that the node certainly did not take."""
    if error.is_too_large:
        return BlobTooLarge(str(error), layer=LAYER, size_bytes=len(group[0].data))
    kind = LayerRefused if error.meaning is Meaning.REFUSED else LayerFailed
    return kind(str(error), layer=LAYER)


def _succeed(one: Submission, height: int) -> None:
    if not one.future.done():
        one.future.set_result(height)


def _fail(one: Submission, error: WeftError) -> None:
    if not one.future.done():
        one.future.set_exception(type(error)(error.message, **error.facts))
