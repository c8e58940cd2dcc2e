"""What a node says of how busy it is. An observation: the scheduler weighs it, and nothing remembers it."""

from typing import Final

import msgspec


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """The storage seed's five figures, with its names and units.

    `cpu_free` and `io_pressure` are shares from 0 to 1.
    """

    cpu_free: float
    ram_free_mb: float
    gpu_free: float = 0.0
    latency_ms: float = 10.0
    io_pressure: float = 0.0


UNKNOWN_STATS: Final = NodeStats(cpu_free=0.0, ram_free_mb=0.0, gpu_free=0.0, latency_ms=9_999.0, io_pressure=1.0)
"""How a node counts that never said: behind everybody who did."""
