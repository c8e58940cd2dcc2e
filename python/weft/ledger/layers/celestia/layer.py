"""The Celestia layer: blobs in a namespace of a public chain, each signed, and an archive beside it because nodes
prune.

What if the answer to a submission is lost? `submitting` looks for the blob before it sends it again. What if somebody
posts into our namespace? Everybody may; what we did not sign is counted and skipped. What if the node lies? A blob's
commitment is computed here from its bytes, twice: the chain's and ours. What if the node has pruned what is asked for?
It is in the archive, or `BlobPruned` says at which height something may be missing; history is never skipped.

A cursor is the next place to read, `height:ordinal`.
"""

import asyncio
import contextlib
from typing import Final, NamedTuple

from weft.ledger.archive import Archive, Place
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Commitment, Cursor, Kept, LayerHealth, Receipt, Scan, commit_to
from weft.ledger.layers.celestia.chain import LAYER, Chain
from weft.ledger.layers.celestia.deadline import Deadline
from weft.ledger.layers.celestia.node import Node
from weft.ledger.layers.celestia.rpc import CallFailed, Rpc
from weft.ledger.layers.celestia.submitting import Submitter
from weft.ledger.layers.cursor import whole_number
from weft.ledger.layers.gather import end_all
from weft.ledger.layers.ports import Clock, Http
from weft.model.errors import BlobDamaged, BlobMissing, BlobPruned, BlobTooLarge, Closed, LayerFailed, LayerRefused
from weft.model.namespace import Namespace
from weft.model.policy import (
    CELESTIA_BLOB_BYTES_MIN,
    CELESTIA_POLL_MS,
    CELESTIA_SCAN_HEIGHTS_MAX,
    CELESTIA_SLOW_MS,
    CELESTIA_STUCK_MS,
    LAYER_BLOB_BYTES_MAX,
    LAYER_PROBE_MS_MAX,
    LAYER_SCAN_BLOBS_MAX,
)


class _Failing(NamedTuple):
    """Puts fail: the last blob of them, since when, and whether the node refuses them."""

    blob: bytes
    since_ms: int
    is_refused: bool


class CelestiaLayer:
    """Blobs on the chain. One process submits for a namespace at a time: the writer of the log."""

    name: Final = LAYER

    def __init__(
        self,
        http: Http,
        clock: Clock,
        archive: Archive,
        publisher: Publisher,
        *,
        rpc_url: str,
        namespace: Namespace,
        token: str | None,
        auth_header: str,
        timeout_ms: int,
        gas_price: float | None = None,
        poll_ms: int = CELESTIA_POLL_MS,
        stuck_ms: int = CELESTIA_STUCK_MS,
    ) -> None:
        self.blob_bytes_max = LAYER_BLOB_BYTES_MAX
        """What this node takes, as far as is known: one behind a smaller limit says so when it meets a larger blob."""
        self._clock = clock
        self._archive = archive
        self._publisher = publisher
        self._timeout_ms = timeout_ms
        self._node = Node(Rpc(http, rpc_url, token, auth_header), namespace, gas_price)
        self._chain = Chain(self._node, archive, publisher, poll_ms)
        self._submitter = Submitter(self._node, self._chain, archive, self._deadline, poll_ms)
        self._stuck_ms = stuck_ms
        self._failing: _Failing | None = None
        self._trial: asyncio.Task[None] | None = None
        self._follow_to = 0
        self._following: asyncio.Task[None] | None = None

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob: it is in the archive and in a block when this returns."""
        if len(blob) > self.blob_bytes_max:
            raise BlobTooLarge(
                f"the celestia layer takes blobs of at most {self.blob_bytes_max} bytes, not {len(blob)}",
                layer=self.name,
                size_bytes=len(blob),
                limit_bytes=self.blob_bytes_max,
            )
        deadline = self._deadline()
        commitment = commit_to(blob)
        place = await self._archive.place_of(commitment)
        if place is not None:
            if await self._stands(place, deadline):
                return Receipt(commitment, place.height)
            await self._archive.forget(place)
        sealed = self._publisher.outer(blob)
        try:
            await self._archive.keep([(commitment, blob)])
            height = await self._submitter.submit(commitment, sealed, await self._node.mark(sealed), deadline)
        except BlobTooLarge:
            # That says nothing about whether puts work; it is for whoever put it to cut it smaller.
            smaller_bytes = 1 << (len(blob) - 1).bit_length() - 1
            self.blob_bytes_max = min(self.blob_bytes_max, max(CELESTIA_BLOB_BYTES_MIN, smaller_bytes))
            raise
        except LayerFailed as error:
            since_ms = self._failing.since_ms if self._failing is not None else self._clock.monotonic_ms()
            self._failing = _Failing(blob, since_ms, isinstance(error, LayerRefused))
            raise
        self._failing = None
        self._follow(height)
        return Receipt(commitment, height)

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified, from the chain or from the archive."""
        deadline = self._deadline()
        place = await self._archive.place_of(commitment)
        if place is None:
            await self._read_on(deadline)
            place = await self._archive.place_of(commitment)
        if place is None:
            raise BlobMissing(f"no blob {commitment} stands on the chain", layer=self.name, commitment=commitment)
        try:
            blob = await self._chain.get(place, deadline)
            if commit_to(blob) == commitment:
                return blob
            gone: BlobMissing | BlobDamaged = BlobDamaged(
                f"what stands at {place.height} is not blob {commitment}", layer=self.name, commitment=commitment
            )
        except BlobMissing as error:
            gone = error
        try:
            return await self._archive.read(commitment)
        except BlobMissing as error:
            raise gone from error

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """Our blobs from a place on, those the node has pruned from the archive."""
        deadline = self._deadline()
        height, ordinal = _parse(after)
        count_max = min(count_max, LAYER_SCAN_BLOBS_MAX)
        tail, head = await self._chain.tail(deadline), await self._chain.head(deadline)
        if height < tail:
            covered = await self._archive.covered()
            if after and not covered.holds(height, tail - 1):
                first = max(height, covered.last + 1) if covered.first <= height else height
                raise BlobPruned(
                    f"the node has pruned everything below {tail}, and what stands from {first} on was never read by "
                    "this archive; rebuild from a snapshot or from another layer",
                    layer=self.name,
                    height=first,
                    after=_spell(tail, 0),
                )
            is_holed = not after and covered.first <= covered.last < tail - 1
            end = covered.last + 1 if is_holed else tail
            stretch = await self._from_archive(height, ordinal, end, count_max)
            if not stretch.is_end:
                return stretch
            if is_holed:
                # What was archived comes first; whoever reads on from there is told of the hole.
                return stretch._replace(is_end=False)
            if stretch.kept or stretch.damaged or head < tail:
                return stretch._replace(is_end=head < tail)
            height, ordinal = tail, 0
        return await self._from_chain(height, ordinal, head, count_max, deadline)

    async def probe(self) -> LayerHealth:
        """Whether the node is synced and answers; degraded when it is slow, or when the last put failed.

        A node may read well and never include a submission. After a while without one it is unavailable, so that
        somebody else is asked; and since nobody asks it then, the blob that failed is put again from here.
        """
        deadline = Deadline(self._clock, min(self._timeout_ms, LAYER_PROBE_MS_MAX), self.name)
        try:
            began_ms = self._clock.monotonic_ms()
            syncing = asyncio.ensure_future(self._node.sync_state(deadline.check()))
            try:
                head = await self._node.head(deadline.check())
                took_ms = self._clock.monotonic_ms() - began_ms
                state = await syncing
            finally:
                await end_all([syncing])
        except (CallFailed, LayerFailed):
            return LayerHealth.UNAVAILABLE
        if state.to_height > state.height or head < 1:
            return LayerHealth.UNAVAILABLE
        if self._failing is None:
            return LayerHealth.DEGRADED if took_ms > CELESTIA_SLOW_MS else LayerHealth.HEALTHY
        if not self._failing.is_refused and self._clock.monotonic_ms() - self._failing.since_ms < self._stuck_ms:
            return LayerHealth.DEGRADED
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(self._try(self._failing.blob), name="celestia trial")
        return LayerHealth.UNAVAILABLE

    async def close(self) -> None:
        """Give up on what is under way, and close the archive."""
        await self._submitter.close()
        await end_all(task for task in (self._following, self._trial) if task is not None)
        await self._archive.close()

    def _deadline(self) -> Deadline:
        return Deadline(self._clock, self._timeout_ms, self.name)

    async def _stands(self, place: Place, deadline: Deadline) -> bool:
        """Whether a blob is where it was seen. A network that was begun anew has forgotten it."""
        try:
            await self._chain.get(place, deadline)
        except BlobPruned:
            return True
        except BlobMissing:
            return False
        return True

    async def _read_on(self, deadline: Deadline) -> None:
        """Read what nobody of us has read yet, so that every blob of ours has its place in the archive."""
        tail, head = await self._chain.tail(deadline), await self._chain.head(deadline)
        covered = await self._archive.covered()
        first = covered.last + 1 if covered.holds(tail, tail) else tail
        async for _ in self._chain.walk(first, head, deadline):
            deadline.check()

    async def _try(self, blob: bytes) -> None:
        """Put a blob again, to know whether a put works. Whatever comes of it, `put` has noted."""
        with contextlib.suppress(LayerFailed, Closed):
            await self.put(blob)

    def _follow(self, height: int) -> None:
        """Read on to a height beside whoever puts, so that the archive has no holes when the node prunes."""
        self._follow_to = max(self._follow_to, height)
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow_all(), name="celestia archive")

    async def _follow_all(self) -> None:
        try:
            while (covered := await self._archive.covered()).last < self._follow_to:
                # The first put of an archive begins it; what came before, a scan from the beginning reads.
                first = covered.last + 1 if covered.last >= covered.first else self._follow_to
                last = min(self._follow_to, first + CELESTIA_SCAN_HEIGHTS_MAX - 1)
                async for _ in self._chain.walk(first, last, self._deadline()):
                    pass
        except LayerFailed:
            # The next put goes on from where this one came to.
            return

    async def _from_archive(self, height: int, ordinal: int, tail: int, count_max: int) -> Scan:
        places = await self._archive.places(height, ordinal, tail, count_max)
        kept: list[Kept] = []
        damaged: list[Commitment] = []
        for place in places:
            try:
                kept.append(Kept(place.commitment, place.height, await self._archive.read(place.commitment)))
            except (BlobDamaged, BlobMissing):
                damaged.append(place.commitment)
        if len(places) < count_max:
            return Scan(kept, _spell(tail, 0), is_end=True, damaged=damaged)
        return Scan(kept, _spell(places[-1].height, places[-1].ordinal + 1), is_end=False, damaged=damaged)

    async def _from_chain(self, height: int, ordinal: int, head: int, count_max: int, deadline: Deadline) -> Scan:
        last = min(head, height + CELESTIA_SCAN_HEIGHTS_MAX - 1)
        kept: list[Kept] = []
        damaged: list[Commitment] = []
        foreign_count = 0
        async for read in self._chain.walk(height, last, deadline):
            if read.height > height or ordinal == 0:
                foreign_count += read.foreign_count
                damaged += read.damaged
            for found in read.found:
                if read.height == height and found.place.ordinal < ordinal:
                    continue
                if len(kept) == count_max:
                    return Scan(kept, _spell(read.height, found.place.ordinal), False, damaged, foreign_count)
                kept.append(Kept(found.place.commitment, read.height, found.blob))
        after = _spell(last + 1, 0) if last >= height else _spell(height, ordinal)
        return Scan(kept, after, last >= head, damaged, foreign_count)


def _parse(cursor: Cursor) -> tuple[int, int]:
    if not cursor:
        return 0, 0
    height, colon, ordinal = cursor.partition(":")
    if not colon:
        raise LayerRefused(
            f"{cursor!r} is not a cursor of the {LAYER} layer; begin again with an empty one", layer=LAYER
        )
    return whole_number(height, cursor, LAYER), whole_number(ordinal, cursor, LAYER)


def _spell(height: int, ordinal: int) -> Cursor:
    return Cursor(f"{height}:{ordinal}")
