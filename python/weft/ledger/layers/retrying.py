"""Trying again: a layer around a layer, so that none of them has it inside.

Only what failed with nothing done is tried again (`LayerFailed` that is temporary), after a pause that doubles. An
unknown outcome goes to the caller, who keeps the blob in its pending list; a refusal is not tried again, and a blob
that is missing is not there the second time either.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from weft.ledger.layer import Commitment, Cursor, Layer, LayerHealth, Receipt, Scan
from weft.ledger.layers.ports import Clock
from weft.model.errors import LayerFailed, LayerUnknown

T = TypeVar("T")


class RetryingLayer:
    """A layer whose verbs are tried again `retry_count` times, as long as `timeout_ms` have not passed."""

    def __init__(self, layer: Layer, clock: Clock, *, retry_count: int, retry_delay_ms: int, timeout_ms: int) -> None:
        self._layer = layer
        self._clock = clock
        self._retry_count = retry_count
        self._retry_delay_ms = retry_delay_ms
        self._timeout_ms = timeout_ms
        self.retried_count = 0

    @property
    def name(self) -> str:
        """The name of the layer inside."""
        return self._layer.name

    @property
    def blob_bytes_max(self) -> int:
        """What the layer inside takes."""
        return self._layer.blob_bytes_max

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob."""
        return await self._try(lambda: self._layer.put(blob))

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified."""
        return await self._try(lambda: self._layer.get(commitment))

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What was kept after a cursor."""
        return await self._try(lambda: self._layer.scan(after, count_max))

    async def probe(self) -> LayerHealth:
        """How the layer is, asked once: whoever watches it counts."""
        return await self._layer.probe()

    async def close(self) -> None:
        """Close the layer inside."""
        await self._layer.close()

    async def _try(self, verb: Callable[[], Awaitable[T]]) -> T:
        ends_at_ms = self._clock.monotonic_ms() + self._timeout_ms
        delay_ms = self._retry_delay_ms
        for left in reversed(range(self._retry_count + 1)):
            try:
                return await verb()
            except LayerUnknown:
                raise
            except LayerFailed as error:
                is_late = self._clock.monotonic_ms() + delay_ms >= ends_at_ms
                if not error.temporary or left == 0 or is_late:
                    raise
            self.retried_count += 1
            await asyncio.sleep(delay_ms / 1_000)
            delay_ms *= 2
        raise AssertionError("the last attempt returns or raises")
