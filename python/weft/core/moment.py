"""A moment: what the world adds to a command when it is decided.

The core has no clock, no randomness and no ear; the shell brings the three in as data, once for each command.
"""

from collections.abc import Container, Iterator
from itertools import count

import msgspec

from weft.model.ids import AttachmentId, ClusterId, NodeId, RegionId, mint_attachment_id, mint_region_id

CHANCE_BYTES = 16


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The time, fresh random bytes for this command alone, and the nodes nobody has heard for too long."""

    now_ms: int
    chance: bytes
    silent: frozenset[NodeId] = frozenset()

    def cluster_id(self) -> ClusterId:
        """A cluster id nobody has had."""
        return ClusterId(self.chance)

    def region_id(self, taken: Container[RegionId]) -> RegionId:
        """A region id that is free. Two equal draws are next to impossible and still must not overwrite a row."""
        return next(made for made in map(mint_region_id, self._numbers()) if made not in taken)

    def attachment_id(self, taken: Container[AttachmentId]) -> AttachmentId:
        """An attachment id that is free."""
        return next(made for made in map(mint_attachment_id, self._numbers()) if made not in taken)

    def _numbers(self) -> Iterator[int]:
        first = int.from_bytes(self.chance[:8], "big")
        return ((first + step) % 2**64 for step in count())
