"""One node of the seed's pager: claims 64 pages, fills its own, and reads what its peer owns. Lines steer it.

own FIRST COUNT           fill pages from FIRST on with this node's mark
remote PAGE NODE          say that a page lives on a node
read PAGE                 print the page's first and last byte
stats                     print local and remote faults
peers N                   print `peers` once N peers are known
"""

import ctypes
import mmap
import sys
import time

import weft

PAGE, PAGES = 4096, 64
node_id, total_nodes, url = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
memory = mmap.mmap(-1, PAGE * PAGES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with weft.start_pager(base, PAGE * PAGES, node_id, total_nodes, url) as pager:
    print(f"pager {node_id} up", flush=True)
    for line in sys.stdin:
        verb, *rest = line.split()
        numbers = [int(number) for number in rest]
        if verb == "own":
            first, count = numbers
            for page in range(first, first + count):
                memory[page * PAGE : (page + 1) * PAGE] = bytes([100 + node_id]) * PAGE
            print("owned", pager.get_owner(first), flush=True)
        elif verb == "remote":
            pager.set_owner(numbers[0], weft.Remote(numbers[1]))
            print("remote", pager.get_owner(numbers[0]), flush=True)
        elif verb == "read":
            start = numbers[0] * PAGE
            print("bytes", memory[start], memory[start + PAGE - 1], flush=True)
        elif verb == "stats":
            stats = pager.stats()
            print("stats", stats.local_faults, stats.remote_faults, stats.remote_miss_ratio, flush=True)
        elif verb == "peers":
            ends_s = time.monotonic() + 20
            while len(pager.peers) < numbers[0] and time.monotonic() < ends_s:
                time.sleep(0.02)
            print("peers", pager.peers, flush=True)
        elif verb == "stop":
            break
print("stopped", flush=True)
