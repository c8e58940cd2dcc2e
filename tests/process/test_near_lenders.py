"""Lenders of this machine: their memory is mapped and read without them, and what ends a right ends that."""

import os
import time
from pathlib import Path

import pytest

from tests.process.conftest import DEADLINE_S, MIB, Pool, content_of, first_offset_at
from weft.client.attachment import Attachment
from weft.model.errors import PageUnavailable

pytestmark = pytest.mark.process


def mapped_extents() -> int:
    """Extents of lenders that this process has mapped, for reading alone."""
    return sum("r--s" in line and "weft-extent" in line for line in Path("/proc/self/maps").read_text().splitlines())


def read_on(memory: Attachment, content: bytes, offset: int) -> None:
    """Reads page after page of one stripe, which is one lender's, within five seconds, and expects what was written."""
    for at in range(offset, offset // (2 * MIB) * 2 * MIB + 2 * MIB, 4096):
        assert memory.read(at, 4096) == content[at : at + 4096]
        time.sleep(0.01)


def test_pages_of_lenders_on_this_machine_come_out_of_their_memory(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    with region.attach("read") as memory:
        assert bytes(memory.buffer) == content
        counters = memory.stats().counters
        assert counters["near_read_bytes"] >= len(content) // 2, counters
        assert counters["near_fallbacks"] == 0
        assert mapped_extents() > 0
    assert mapped_extents() == 0


def test_a_region_that_is_kept_to_tcp_is_read_over_tcp(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_TRANSPORT", "tcp")
    content = content_of(4 * MIB)
    region = pool.filled("sealed", content)
    with region.attach("read") as memory:
        assert bytes(memory.buffer) == content
        assert memory.stats().counters.get("near_read_bytes", 0) == 0
        assert mapped_extents() == 0


def test_what_one_process_flushes_another_reads_out_of_the_mapping(pool: Pool) -> None:
    region = pool.cluster.region("written", size=4 * MIB)
    for value in (1, 2, 3):
        with region.attach("exclusive") as memory:
            assert memory.read(MIB, 3) == bytes([value - 1] * 3), "what was flushed before is read"
            memory.write(MIB, bytes([value] * 8192))
            memory.flush()
    region.seal()
    with region.attach("read") as memory:
        assert memory.read(MIB, 8192) == bytes([3] * 8192)
        assert memory.read(0, 4096) == bytes(4096)
        assert memory.stats().counters["near_read_bytes"] > 0


def test_a_lender_that_is_killed_while_it_is_mapped_is_lost_and_never_zeros(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    lost, kept = first_offset_at(region, "b"), first_offset_at(region, "a")
    with region.attach("read", fault_timeout_ms=2000) as memory:
        assert memory.read(lost, 4096) == content[lost : lost + 4096]
        assert memory.stats().counters["near_extents"] > 0
        pool.nodes["b"].child.kill()
        end = time.monotonic() + DEADLINE_S
        # Right bytes, as long as nobody noticed, and then an end; each time another page, for what came stays.
        with pytest.raises(PageUnavailable):
            read_on(memory, content, lost + 4096)
        assert memory.read(kept, 4096) == content[kept : kept + 4096]
        # Of the lender that is gone nothing stays mapped.
        while mapped_extents() > 1 and time.monotonic() < end:
            time.sleep(0.01)
    assert mapped_extents() == 0


KEPT_APART = """
import os, sys, weft
from weft.dataplane.endpoint import Endpoint
os.setuid(65534)
# From here on the kernel lets nobody look into this process, not even a process of the same user.
endpoint = Endpoint.listen(secret=b"tests", name=sys.argv[1])
if sys.argv[1] == "owner":
    memory = endpoint.allocate(8192)
    memory[:5] = b"hello"
    print("owner", endpoint.metadata.hex(), endpoint.register(memory).advertise().encode().hex(), flush=True)
    sys.stdin.read()
else:
    peer, into = endpoint.connect(bytes.fromhex(sys.argv[2])), bytearray(5)
    peer.read_now(weft.Advert(bytes.fromhex(sys.argv[3])), into)
    print("read", into.decode(), "by", endpoint.status().peers[0].transport, flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_processes_that_the_kernel_keeps_apart_meet_over_tcp_and_say_so(pool: Pool) -> None:
    owner = pool.crew.start("owner", "-c", KEPT_APART, "owner")
    _, metadata, advert = owner.line_with("owner ", DEADLINE_S).split()
    other = pool.crew.start("other", "-c", KEPT_APART, "other", metadata, advert)
    assert other.line_with("read", DEADLINE_S).strip() == "read hello by tcp"
