"""A region as a buffer of transfers: what others lend, read and written by peers that know nothing of regions."""

import hashlib

import pytest

from tests.process.conftest import DEADLINE_S, MIB, Pool, content_of
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import Cancelled, StillExported

pytestmark = pytest.mark.process

READER = """
import hashlib, sys, weft
from weft.dataplane.endpoint import Endpoint
with Endpoint.listen(secret=b"tests", transport=sys.argv[3]) as endpoint:
    peer, advert = endpoint.connect(bytes.fromhex(sys.argv[1])), weft.Advert(bytes.fromhex(sys.argv[2]))
    into = bytearray(advert.size_bytes)
    assert peer.read(advert, into).wait() == peer.read_now(advert, into) == len(into)
    print("read", hashlib.sha256(into).hexdigest(), flush=True)
    peer.write_now(advert, b"from afar", offset=4096 * 3 + 7)
    print("written", flush=True)
"""


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_peer_reads_and_writes_a_region_that_another_process_attached(pool: Pool, transport: str) -> None:
    content = content_of(4 * MIB)
    region = pool.cluster.region("scratch", size=len(content))
    with region.attach("exclusive") as memory:
        memory.write(0, content)
    with (
        region.attach("exclusive") as memory,
        Endpoint.listen(secret=b"tests", transport=transport) as endpoint,
        endpoint.register(memory) as registered,
    ):
        # No page is here yet: each comes from its lender when the peer asks for it.
        assert registered.size_bytes == len(content)
        child = pool.crew.start(
            "reader", "-c", READER, endpoint.metadata.hex(), registered.advertise().encode().hex(), transport
        )
        assert child.line_with("read ", DEADLINE_S).split()[1] == hashlib.sha256(content).hexdigest()
        child.line_with("written", DEADLINE_S)
        assert child.wait(DEADLINE_S) == 0, child.lines
        registered.release()
    with region.attach("exclusive") as memory:
        assert memory.read(4096 * 3, 20) == content[4096 * 3 :][:7] + b"from afar" + content[4096 * 3 + 16 :][:4]


def test_a_region_is_the_near_side_of_a_transfer_and_cannot_be_detached_while_it_is(pool: Pool) -> None:
    content = content_of(2 * MIB)
    with pool.cluster.region("scratch", size=len(content)).attach("exclusive") as memory:
        with Endpoint.listen(secret=b"tests") as owner, Endpoint.listen(secret=b"tests") as other:
            peer = other.connect(owner.metadata)
            source = bytearray(content)
            with owner.register(source) as registered:
                advert = registered.advertise()
                assert peer.read_now(advert, memory) == len(content)
                assert peer.write_now(advert, memory.buffer[4096:8192], offset=0) == 4096
            assert source[:4096] == content[4096:8192]
            waiting = peer.recv(memory, tag=1)
            with pytest.raises(StillExported):
                memory.detach()
            waiting.cancel()
            with pytest.raises(Cancelled):
                waiting.wait()
        memory.flush()
        assert memory.read(0, len(content)) == content
