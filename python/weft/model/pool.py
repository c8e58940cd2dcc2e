"""An engine pool: some engines of one kind on one node, as the node last described them.

A snapshot is an observation. It is held in memory until the next one, and never stands in the log: what the log knows
of pools is which of them a node promised when it registered.
"""

from typing import Final

import msgspec

from weft.model.ids import NodeId

DEFAULT_POOL_ID: Final = "default"
DEFAULT_REPLICA_ID: Final = "r0"


class PoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a node said of one of its pools.

    `devices` None means that the node did not say which devices the pool runs on; empty means that it runs on none.
    `url` is where the pool's engine answers, when a handoff file named it.
    """

    pool_id: str
    ready: bool
    slots_free: int
    slots_total: int
    draining: bool = False
    vram_free_bytes: int = 0
    engine: str | None = None
    models_available: tuple[str, ...] = ()
    devices: tuple[str, ...] | None = None
    replica_id: str = DEFAULT_REPLICA_ID
    url: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the pool takes work at all; whether it has a free slot is another question."""
        return self.ready and not self.draining


PoolKey = tuple[NodeId, str]
"""Two nodes may both call a pool "pool-0": a pool is its node's, and never found by its own name alone."""


def parse_device_mask(mask: str) -> tuple[str, ...]:
    """The devices of a mask like "0,1" or "GPU0, GPU1", in order of name, each once."""
    return tuple(sorted({device.strip() for device in mask.split(",") if device.strip()}))
