"""A meter: a layer with its verbs counted and timed. A wrapper around the port, so that no layer counts by itself."""

import asyncio

from msgspec import Struct

from weft.ledger.layer import Commitment, Cursor, Layer, LayerHealth, Receipt, Scan
from weft.model.errors import BlobMissing, LayerFailed


class Counts(Struct, kw_only=True):
    """What was asked of a layer, and how long it took. Microseconds are summed over what succeeded."""

    post_count: int = 0
    get_count: int = 0
    error_count: int = 0
    health_check_count: int = 0
    retry_count: int = 0
    post_us: int = 0
    get_us: int = 0
    posted: int = 0
    got: int = 0

    @property
    def post_us_mean(self) -> int:
        """How long a put that succeeded took."""
        return self.post_us // self.posted if self.posted else 0

    @property
    def get_us_mean(self) -> int:
        """How long a get that succeeded took."""
        return self.get_us // self.got if self.got else 0


class MeteredLayer:
    """The port, counted. That a blob is missing is an answer and no error."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.counts = Counts()

    @property
    def name(self) -> str:
        """The layer's."""
        return self._layer.name

    @property
    def blob_bytes_max(self) -> int:
        """The layer's."""
        return self._layer.blob_bytes_max

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob."""
        counts, began_us = self.counts, _now_us()
        counts.post_count += 1
        try:
            receipt = await self._layer.put(blob)
        except LayerFailed:
            counts.error_count += 1
            raise
        counts.posted += 1
        counts.post_us += _now_us() - began_us
        return receipt

    async def get(self, commitment: Commitment) -> bytes:
        """A blob."""
        counts, began_us = self.counts, _now_us()
        counts.get_count += 1
        try:
            blob = await self._layer.get(commitment)
        except BlobMissing:
            raise
        except LayerFailed:
            counts.error_count += 1
            raise
        counts.got += 1
        counts.get_us += _now_us() - began_us
        return blob

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What was kept after a cursor."""
        return await self._layer.scan(after, count_max)

    async def probe(self) -> LayerHealth:
        """Whether a put would work now."""
        self.counts.health_check_count += 1
        return await self._layer.probe()

    async def close(self) -> None:
        """Let go of connections."""
        await self._layer.close()


def _now_us() -> int:
    """Microseconds by the loop's clock, which is virtual in the simulator."""
    return int(asyncio.get_running_loop().time() * 1_000_000)
