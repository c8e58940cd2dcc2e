"""A fallback that proves itself: one that answers checks and takes no puts is out, whatever it says of its health.

A wrong token, a disk that reads and does not write, validators that sign as one: a check sees none of it. So puts that
fail one after the other count, and a layer that failed so many is unavailable until a put lands there. Nobody else puts
to a layer that is out, so the blob that failed last is put again by itself, once a check. It belonged there, its
commitment is the same, and whoever wanted it kept has meanwhile found another place or waits.
"""

import asyncio
import contextlib

from weft.ledger.layer import Commitment, Cursor, Layer, LayerHealth, Receipt, Scan
from weft.model.errors import LayerFailed, WeftError
from weft.model.policy import FALLBACK_PUT_FAILURES_MAX


class ProvenLayer:
    """The port, with a probe that goes by what became of puts as well."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._failed_count = 0
        self._failed = b""
        self._trial: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The layer's."""
        return self._layer.name

    @property
    def blob_bytes_max(self) -> int:
        """The layer's."""
        return self._layer.blob_bytes_max

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob. One that is too large is nothing the layer could help."""
        try:
            receipt = await self._layer.put(blob)
        except LayerFailed:
            if len(blob) <= self.blob_bytes_max:
                self._failed_count += 1
                self._failed = blob
            raise
        self._failed_count, self._failed = 0, b""
        return receipt

    async def get(self, commitment: Commitment) -> bytes:
        """A blob."""
        return await self._layer.get(commitment)

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What was kept after a cursor."""
        return await self._layer.scan(after, count_max)

    async def probe(self) -> LayerHealth:
        """Whether a put would work now, which several that did not say better than the layer does."""
        health = await self._layer.probe()
        if health is LayerHealth.UNAVAILABLE or self._failed_count < FALLBACK_PUT_FAILURES_MAX:
            return health
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(self._try(self._failed), name=f"trial {self.name}")
        return LayerHealth.UNAVAILABLE

    async def close(self) -> None:
        """Let go of connections."""
        if self._trial is not None:
            self._trial.cancel()
            await asyncio.wait({self._trial})
        await self._layer.close()

    async def _try(self, blob: bytes) -> None:
        with contextlib.suppress(WeftError):
            await self.put(blob)
