"""The machine itself: processors and memory."""

import os

from weft.cli.doctor.finding import Finding, limited, ok
from weft.client.sizes import format_size
from weft.dataplane import MachineMemory


def check_processors(count: int) -> Finding:
    """How many processors this process may use."""
    if count < 2:
        return limited(
            "processors",
            "1",
            meaning="a fault and the thread that serves it take turns, so every fault costs two switches",
            remedy="give this machine or container a second processor",
        )
    return ok("processors", str(count))


def check_memory(memory: MachineMemory) -> Finding:
    """How much could be lent now."""
    found = f"{format_size(memory.available_bytes)} of {format_size(memory.total_bytes)} available"
    if memory.available_bytes < memory.total_bytes // 10:
        return limited(
            "memory",
            found,
            meaning="little can be lent before this machine runs short itself",
            remedy="end what is not needed, or lend from another machine",
        )
    return ok("memory", found)


def usable_processors() -> int:
    """The processors this process may be scheduled on."""
    return len(os.sched_getaffinity(0))
