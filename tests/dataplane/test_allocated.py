"""Memory that Weft allocates: any buffer to its program, and mapped by neighbours that hold an advert of it."""

import gc
from pathlib import Path

import numpy as np
import pytest

from weft.dataplane.endpoint import Endpoint
from weft.model.errors import BadArgument, ExtentLost, NoMemory

SECRET = b"the secret of these tests"


def views() -> int:
    """Mappings of such memory that may only be read: a neighbour's."""
    return sum("r--s" in line and "weft-memory" in line for line in Path("/proc/self/maps").read_text().splitlines())


def allocations() -> int:
    return sum("rw-s" in line and "weft-memory" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_it_is_a_buffer_of_zeros_as_long_as_it_was_asked_for_and_goes_with_its_last_array() -> None:
    with Endpoint.listen(secret=SECRET) as endpoint:
        memory = endpoint.allocate(10_000)
        assert (len(memory), memory.readonly, bytes(memory)) == (10_000, False, bytes(10_000))
        array = np.frombuffer(memory, dtype="<u2")[10:20]
        array[:] = 7
        assert memory[20:22] == b"\x07\x00"
        del memory
        gc.collect()
        assert (allocations(), int(array.sum())) == (1, 70)
        del array
        gc.collect()
        assert allocations() == 0


def test_neighbours_read_it_by_mapping_and_write_it_by_the_kernel() -> None:
    with Endpoint.listen(secret=SECRET, name="owner") as owner, Endpoint.listen(secret=SECRET, name="other") as other:
        memory = owner.allocate(1 << 20)
        content = np.frombuffer(memory, dtype=np.uint8)
        content[:] = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
        with other.connect(owner.metadata) as peer, owner.register(memory) as registered:
            assert peer.transport == "ipc"
            advert, into = registered.advertise(4_000, 500_000), bytearray(500_000)
            assert (peer.read_now(advert, into), views()) == (500_000, 1)
            assert into == content[4_000:504_000].tobytes()
            peer.write_now(advert, b"written", offset=96)
            assert bytes(memory[4_096:4_103]) == b"written"
            assert peer.read(advert, into).wait() == 500_000
            assert into[96:103] == b"written"
            registered.release()
            with pytest.raises(ExtentLost):
                peer.read_now(advert, into)
        del content, memory


def test_an_endpoint_that_keeps_to_tcp_serves_it_as_any_buffer() -> None:
    with Endpoint.listen(secret=SECRET, name="owner", transport="tcp") as owner:
        memory = owner.allocate(8_192)
        memory[:5] = b"hello"
        with (
            Endpoint.listen(secret=SECRET) as other,
            other.connect(owner.metadata) as peer,
            owner.register(memory) as registered,
        ):
            into = bytearray(5)
            peer.read_now(registered.advertise(), into)
            assert (bytes(into), peer.transport, views()) == (b"hello", "tcp", 0)


@pytest.mark.parametrize("size", [0, -1])
def test_memory_of_no_bytes_is_refused(size: int) -> None:
    with Endpoint.listen(secret=SECRET) as endpoint, pytest.raises(BadArgument, match="at least one byte"):
        endpoint.allocate(size)


def test_more_than_the_machine_has_is_refused_before_a_page_is_taken() -> None:
    with Endpoint.listen(secret=SECRET) as endpoint, pytest.raises(NoMemory):
        endpoint.allocate(1 << 46)
