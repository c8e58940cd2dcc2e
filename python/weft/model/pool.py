"""An engine pool: some engines of one kind on one node, its replicas, as the node last described them.

Each replica has an address and slots of its own, so a job is placed on a replica and an adapter bound to one; the pool
is what they have in common. A pool of which nobody names a replica has one, the default.

A snapshot is an observation. It is held in memory until the next one, and never stands in the log: what the log knows
of pools is which of them a node promised when it registered.
"""

from typing import Final

import msgspec

from weft.model.ids import NodeId

DEFAULT_POOL_ID: Final = "default"
DEFAULT_REPLICA_ID: Final = "r0"


class PoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a node said of one replica of one of its pools.

    `devices` None means that the node did not say which devices the pool runs on; empty means that it runs on none.
    `url` is where the replica's engine answers, when a handoff file named it.
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
    def seat(self) -> "Seat":
        """What the replica is known by on its node."""
        return self.pool_id, self.replica_id

    @property
    def is_open(self) -> bool:
        """Whether the replica takes work at all; whether it has a free slot is another question."""
        return self.ready and not self.draining


Seat = tuple[str, str]
"""A pool and a replica of it, on one node."""

PoolKey = tuple[NodeId, str, str]
"""Two nodes may both call a pool "pool-0": a pool is its node's, and never found by its own name alone."""


def parse_device_mask(mask: str) -> tuple[str, ...]:
    """The devices of a mask like "0,1" or "GPU0, GPU1", in order of name, each once."""
    return tuple(sorted({device.strip() for device in mask.split(",") if device.strip()}))
