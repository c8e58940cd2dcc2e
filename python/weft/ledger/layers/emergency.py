"""The emergency layer: one server that keeps blobs, for when nothing else takes them (`weft witness emergency`).

It is one disk. What it says it keeps is on that disk, and lost with it; the answer to that is the haste with which the
reconciler brings everything back to the primary.
"""

import asyncio
from typing import Final

from weft.ledger.layer import Commitment, Cursor, Kept, LayerHealth, Receipt, Scan, commit_to
from weft.ledger.layers.cursor import parse_count
from weft.ledger.layers.gather import gather_all
from weft.ledger.layers.ports import Clock, Http
from weft.ledger.layers.server import BlobServer, Line
from weft.model.errors import BlobDamaged, BlobMissing, BlobTooLarge, LayerFailed
from weft.model.policy import (
    LAYER_BLOB_BYTES_MAX,
    LAYER_MS_MAX,
    LAYER_PROBE_MS_MAX,
    LAYER_SCAN_BLOBS_MAX,
    LAYER_SLOW_MS,
)

_GETS_AT_ONCE: Final = 8
"""Blobs fetched side by side in a scan: enough to fill a link, and no more than 16 MiB on the way."""


class EmergencyLayer:
    """Blobs on one server, in the order in which it took them."""

    name: Final = "emergency"
    blob_bytes_max: Final = LAYER_BLOB_BYTES_MAX

    def __init__(
        self, http: Http, clock: Clock, url: str, token: str | None, *, timeout_ms: int = LAYER_MS_MAX
    ) -> None:
        self._server = BlobServer(http, url, token, self.name)
        self._clock = clock
        self._timeout_ms = timeout_ms

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob; it is on the server's disk when this returns."""
        if len(blob) > self.blob_bytes_max:
            raise BlobTooLarge(
                f"the emergency layer takes blobs of at most {self.blob_bytes_max} bytes, not {len(blob)}",
                layer=self.name,
                size_bytes=len(blob),
                limit_bytes=self.blob_bytes_max,
            )
        commitment = commit_to(blob)
        put = await self._server.put(commitment, blob, {}, self._timeout_ms)
        return Receipt(commitment, put.height)

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified."""
        return await self._server.get(commitment, self._timeout_ms)

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """Blobs in the order of their heights."""
        begin = parse_count(after, self.name)
        page = await self._server.list(begin, min(count_max, LAYER_SCAN_BLOBS_MAX), self._timeout_ms)
        hands = asyncio.Semaphore(_GETS_AT_ONCE)
        found = await gather_all([self._find(line, hands) for line in page.blobs])
        return Scan(
            kept=[one for one in found if isinstance(one, Kept)],
            after=Cursor(str(page.next)) if page.next else after,
            is_end=page.is_end,
            damaged=[one for one in found if isinstance(one, str)],
        )

    async def probe(self) -> LayerHealth:
        """Whether the server takes blobs, and answers before long."""
        began_ms = self._clock.monotonic_ms()
        try:
            timeout_ms = min(self._timeout_ms, LAYER_PROBE_MS_MAX)
            health = await self._server.health(timeout_ms)
            # Anybody is told of its health; a list asks for the token that a put needs.
            await self._server.list(health.height, 1, timeout_ms)
        except LayerFailed:
            return LayerHealth.UNAVAILABLE
        took_ms = self._clock.monotonic_ms() - began_ms
        return LayerHealth.DEGRADED if took_ms > LAYER_SLOW_MS else LayerHealth.HEALTHY

    async def close(self) -> None:
        """Nothing is held: the connections are the transport's, which whoever made it closes."""

    async def _find(self, line: Line, hands: asyncio.Semaphore) -> Kept | Commitment:
        """The blob of a line, or its commitment when the server has it no longer as it was."""
        commitment = Commitment(line.commitment)
        async with hands:
            try:
                return Kept(commitment, line.height, await self._server.get(commitment, self._timeout_ms))
            except (BlobDamaged, BlobMissing):
                return commitment
