"""Reading the chain: heights one after the other, ours told from others', everything of ours archived on the way.

Nodes prune: below its tail one refuses to answer. What was read once is in the archive, and how far was read without a
hole is noted with it, so that a reader who comes later is told when something may be missing and never skips it.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final, NamedTuple

from weft.ledger.archive import Archive, Place
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Commitment, commit_to
from weft.ledger.layers.celestia.deadline import Deadline
from weft.ledger.layers.celestia.node import ChainBlob, Node
from weft.ledger.layers.celestia.rpc import CallFailed, Meaning
from weft.model.errors import BlobDamaged, BlobForeign, BlobMissing, BlobPruned, LayerFailed, LayerRefused
from weft.model.policy import CELESTIA_HEIGHTS_AT_ONCE

LAYER: Final = "celestia"
_PLACES_MAX: Final = 1 << 20
"""More than sixteen blocks can hold; a bound only so that there is one."""


class Found(NamedTuple):
    """A blob of ours, and where it stands."""

    place: Place
    blob: bytes


class Height(NamedTuple):
    """What a height has for us: our blobs in order, and how many others put there.

    `damaged` stood here once, and neither the node nor the archive has it as it was.
    """

    height: int
    found: Sequence[Found]
    damaged: Sequence[Commitment]
    foreign_count: int


class Chain:
    """One namespace of the chain, through one node."""

    def __init__(self, node: Node, archive: Archive, publisher: Publisher, poll_ms: int) -> None:
        self._node = node
        self._poll_ms = poll_ms
        self._archive = archive
        self._publisher = publisher

    async def head(self, deadline: Deadline) -> int:
        """The highest block there is."""
        try:
            return await self._node.head(deadline.check())
        except CallFailed as error:
            raise failure(error) from error

    async def tail(self, deadline: Deadline) -> int:
        """The lowest block the node still has. A node too old to prune has all of them."""
        try:
            return await self._node.tail(deadline.check())
        except CallFailed as error:
            if error.meaning is Meaning.REFUSED and "not found" in str(error):
                return 1
            raise failure(error) from error

    async def walk(self, first: int, last: int, deadline: Deadline) -> AsyncIterator[Height]:
        """These heights in order. What is of ours is in the archive, with its place, before it is given."""
        while first <= last:
            count = min(CELESTIA_HEIGHTS_AT_ONCE, last - first + 1)
            heights = range(first, first + count)
            listed = await self._read(heights, deadline)
            known = await self._archive.places(first, 0, first + count, _PLACES_MAX)
            read = [
                await self._complete(self._sort(height, blobs), [one for one in known if one.height == height])
                for height, blobs in zip(heights, listed, strict=True)
            ]
            ours = [found for height in read for found in height.found]
            await self._archive.keep([(found.place.commitment, found.blob) for found in ours])
            if ours:
                await self._archive.note([found.place for found in ours])
            await self._archive.cover(first, first + count - 1)
            for height in read:
                yield height
            first += count

    async def look_for(self, marks: Collection[bytes], first: int, deadline: Deadline) -> dict[bytes, int]:
        """At which height each of these marks stands, from a height to the head; those that stand nowhere are left out.

        A height that was pruned is left out too: what was sent so long ago was found then, or never arrived.
        """
        heights: dict[bytes, int] = {}
        first, last = max(first, await self.tail(deadline)), await self.head(deadline)
        async for height in self.walk(first, last, deadline):
            for found in height.found:
                if found.place.mark in marks:
                    heights.setdefault(found.place.mark, height.height)
            if len(heights) == len(marks):
                break
        return heights

    async def get(self, place: Place, deadline: Deadline) -> bytes:
        """The blob that stands at a place. Raises `BlobMissing`, `BlobPruned`, `LayerFailed`."""
        try:
            sealed = await self._node.get(place.height, place.mark, deadline.check())
        except CallFailed as error:
            raise failure(error, place) from error
        try:
            return self._publisher.inner(sealed)
        except BlobForeign as error:
            raise BlobMissing(
                f"what stands at {place.height} under the mark of {place.commitment} is not of this cluster",
                layer=LAYER,
                commitment=place.commitment,
            ) from error

    async def _read(self, heights: Sequence[int], deadline: Deadline) -> list[list[ChainBlob]]:
        """What the node has at these heights. One that has not come so far yet is waited for."""
        while True:
            try:
                return await self._node.blobs(heights, deadline.check())
            except CallFailed as error:
                if error.meaning is Meaning.FUTURE and deadline.left_ms > self._poll_ms:
                    await deadline.pause(self._poll_ms)
                    continue
                if len(heights) > 1 and error.meaning is Meaning.UNKNOWN and deadline.left_ms > 0:
                    # Together they may be more than an answer may have.
                    half = len(heights) // 2
                    return [*await self._read(heights[:half], deadline), *await self._read(heights[half:], deadline)]
                if error.meaning is Meaning.PRUNED:
                    # It was there when the reader began. The next one begins elsewhere, and says what is missing.
                    raise LayerFailed(f"{error}, while it was being read; try again", layer=LAYER) from error
                raise failure(error) from error

    async def _complete(self, height: Height, known: Sequence[Place]) -> Height:
        """What was seen to stand here stands here still, whatever the node says now: the archive has it, or had it."""
        marks = {found.place.mark for found in height.found}
        found, damaged = list(height.found), list(height.damaged)
        for place in known:
            if place.mark in marks:
                continue
            try:
                found.append(Found(place, await self._archive.read(place.commitment)))
            except (BlobMissing, BlobDamaged):
                damaged.append(place.commitment)
        found.sort(key=lambda one: one.place.ordinal)
        return height._replace(found=found, damaged=damaged)

    def _sort(self, height: int, blobs: Sequence[ChainBlob]) -> Height:
        """Ours from others'. What names our publisher and is not signed by it is somebody else's as well."""
        found: list[Found] = []
        for one in blobs:
            if one.mark is None:
                continue
            try:
                blob = self._publisher.inner(one.data)
            except BlobForeign:
                continue
            found.append(Found(Place(height, one.ordinal, commit_to(blob), one.mark), blob))
        return Height(height, found, (), len(blobs) - len(found))


def failure(error: CallFailed, place: Place | None = None) -> LayerFailed:
    """What a failed read is to whoever asked the layer."""
    commitment: Commitment | None = place.commitment if place is not None else None
    match error.meaning:
        case Meaning.REFUSED:
            return LayerRefused(str(error), layer=LAYER)
        case Meaning.PRUNED:
            height = place.height if place is not None else None
            return BlobPruned(f"{error}; the archive may have it", layer=LAYER, height=height, commitment=commitment)
        case Meaning.NOT_FOUND:
            return BlobMissing(str(error), layer=LAYER, commitment=commitment)
        case _:
            return LayerFailed(str(error), layer=LAYER)
