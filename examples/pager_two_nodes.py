"""The pager by itself: two nodes, one of which owns the pages the other touches.

    weft coordinator &  python examples/pager_two_nodes.py

Both nodes are in this one process to keep the example short; on two machines each runs its own half.
"""

import ctypes
import mmap

import httpx

import weft

PAGE, PAGES = 4096, 16
URL = weft.connect().url


def fresh_memory() -> tuple[mmap.mmap, int]:
    """Memory nobody has touched yet, and its address."""
    memory = mmap.mmap(-1, PAGE * PAGES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


nodes = [
    {"node_id": node, "hostname": f"node{node}", "ip_address": "127.0.0.1", "cpu_count": 1, "memory_mb": 1}
    for node in (0, 1)
]
httpx.post(f"{URL}/cluster", json={"name": "example", "nodes": nodes}).raise_for_status()

here, here_base = fresh_memory()
there, there_base = fresh_memory()
with (
    weft.start_pager(there_base, PAGE * PAGES, 1, 2, URL) as owner,
    weft.start_pager(here_base, PAGE * PAGES, 0, 2, URL) as borrower,
):
    there[3 * PAGE : 3 * PAGE + 5] = b"hello"  # First touched by node 1, so page 3 is node 1's.
    borrower.set_owner(3, weft.Remote(1))
    print(bytes(here[3 * PAGE : 3 * PAGE + 5]).decode(), "from page 3 of node 1")

    stats = borrower.stats()
    print(f"{stats.remote_faults} remote fault, {stats.median_latency_us} us")
    print("page 3 belongs to", borrower.get_owner(3))
