"""A layer in memory: the storage seed's mock (USE_MOCK_DA=true), and what tests and simulations set faults in.

It can be slow, be down, fail before it keeps a blob, and fail after, which a caller cannot tell from before. What if
the process ends? Everything is forgotten: it is for development, and the log says so when it is chosen.
"""

import asyncio
from typing import Final, Protocol

from weft.ledger.layer import Commitment, Cursor, Kept, LayerHealth, Receipt, Scan, commit_to
from weft.ledger.layers.cursor import parse_count
from weft.ledger.layers.ports import Clock, Random
from weft.model.errors import BlobDamaged, BlobMissing, BlobTooLarge, Closed, LayerFailed, LayerUnknown
from weft.model.policy import LAYER_BLOB_BYTES_MAX, LAYER_SCAN_BLOBS_MAX, LAYER_SLOW_MS

_CHANCE_BYTES: Final = 4


class Strikes(Protocol):
    """Says, each time it is asked, whether a fault strikes."""

    def strikes(self) -> bool:
        """Whether it strikes this time."""
        ...


class MemoryLayer:
    """Blobs at heights 1, 2, 3 and so on. Its knobs may be turned while it is used.

    `latency_ms` is what every verb takes; `failure_chance` how often a put fails before anything is kept;
    `unknown_chance` how often it fails afterwards. `is_down` fails everything. `fails_before` and `fails_after` are
    asked at each put beside the chances.
    """

    name: Final = "memory"
    blob_bytes_max: Final = LAYER_BLOB_BYTES_MAX

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        latency_ms: int = 0,
        failure_chance: float = 0.0,
        unknown_chance: float = 0.0,
    ) -> None:
        self._clock = clock
        self._random = random
        self._blobs: list[tuple[Commitment, bytes]] = []
        self._heights: dict[Commitment, int] = {}
        self._closed = False
        self.latency_ms = latency_ms
        self.failure_chance = failure_chance
        self.unknown_chance = unknown_chance
        self.is_down = False
        self.fails_before: Strikes | None = None
        self.fails_after: Strikes | None = None

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob."""
        commitment = commit_to(blob)
        if len(blob) > self.blob_bytes_max:
            raise BlobTooLarge(
                f"the memory layer takes blobs of at most {self.blob_bytes_max} bytes, not {len(blob)}",
                layer=self.name,
                size_bytes=len(blob),
                limit_bytes=self.blob_bytes_max,
            )
        await self._pass_through()
        if self._strikes(self.failure_chance, self.fails_before):
            raise LayerFailed("the memory layer failed as it was told to", layer=self.name)
        if commitment not in self._heights:
            self._blobs.append((commitment, blob))
            self._heights[commitment] = len(self._blobs)
        if self._strikes(self.unknown_chance, self.fails_after):
            raise LayerUnknown(
                "the memory layer failed as it was told to, after it kept the blob",
                layer=self.name,
                commitment=commitment,
            )
        return Receipt(commitment, self._heights[commitment])

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified."""
        await self._pass_through()
        height = self._heights.get(commitment)
        if height is None:
            raise BlobMissing(f"the memory layer holds no blob {commitment}", layer=self.name, commitment=commitment)
        blob = self._blobs[height - 1][1]
        if commit_to(blob) != commitment:
            raise BlobDamaged(
                f"blob {commitment} of the memory layer was changed", layer=self.name, commitment=commitment
            )
        return blob

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """Blobs in the order of their heights."""
        await self._pass_through()
        begin = parse_count(after, self.name)
        end = begin + min(count_max, LAYER_SCAN_BLOBS_MAX)
        stretch = self._blobs[begin:end]
        kept = [
            Kept(commitment, begin + place, blob)
            for place, (commitment, blob) in enumerate(stretch, start=1)
            if commit_to(blob) == commitment
        ]
        whole = {one.commitment for one in kept}
        return Scan(
            kept=kept,
            after=Cursor(str(begin + len(stretch))) if stretch else after,
            is_end=end >= len(self._blobs),
            damaged=[commitment for commitment, _ in stretch if commitment not in whole],
        )

    async def probe(self) -> LayerHealth:
        """Down, slow, or well."""
        began_ms = self._clock.monotonic_ms()
        try:
            await self._pass_through()
        except (LayerFailed, Closed):
            return LayerHealth.UNAVAILABLE
        took_ms = self._clock.monotonic_ms() - began_ms
        return LayerHealth.DEGRADED if took_ms > LAYER_SLOW_MS else LayerHealth.HEALTHY

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def damage(self, commitment: Commitment, blob: bytes) -> None:
        """Put other bytes where a blob was: what a disk may do."""
        self._blobs[self._heights[commitment] - 1] = (commitment, blob)

    async def _pass_through(self) -> None:
        """What every verb meets first."""
        if self._closed:
            raise Closed("the memory layer is closed")
        if self.latency_ms:
            await asyncio.sleep(self.latency_ms / 1_000)
        if self.is_down:
            raise LayerFailed("the memory layer is down, as it was told to be", layer=self.name)

    def _strikes(self, chance: float, fault: Strikes | None) -> bool:
        struck = fault is not None and fault.strikes()
        if chance > 0.0:
            drawn = int.from_bytes(self._random.draw(_CHANCE_BYTES)) / 2 ** (8 * _CHANCE_BYTES)
            struck = struck or drawn < chance
        return struck
