"""Sizes and offsets beyond what 32 bits can say."""

import mmap
from collections.abc import Iterator

import pytest

from weft.dataplane.endpoint import Endpoint, Peer
from weft.model.errors import OutOfRange

GIB = 1 << 30


@pytest.fixture(params=["tcp", "ipc"])
def met(request: pytest.FixtureRequest) -> Iterator[tuple[Endpoint, Peer]]:
    with (
        Endpoint.listen(secret=b"tests", transport=request.param) as owner,
        Endpoint.listen(secret=b"tests", transport=request.param) as other,
        other.connect(owner.metadata) as peer,
    ):
        yield owner, peer


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Six gibibytes of which only what is touched is there."""
    try:
        made = mmap.mmap(-1, 6 * GIB)
    except OSError as error:
        pytest.skip(f"this machine gives no address space of 6 GiB: {error}")
    yield made
    made.close()


def test_places_beyond_four_gibibytes_are_those_places(met: tuple[Endpoint, Peer], memory: mmap.mmap) -> None:
    owner, peer = met
    with owner.register(memory) as registered:
        advert = registered.advertise()
        assert advert.size_bytes == 6 * GIB
        far, near = 4 * GIB + 123, 123
        peer.write_now(advert, b"far", offset=far)
        peer.write(advert, b"near", offset=near).wait()
        assert (memory[far : far + 4], memory[near : near + 4]) == (b"far\0", b"near")
        into = bytearray(3)
        peer.readv([(advert, far, into)]).wait()
        assert into == b"far"
        with pytest.raises(OutOfRange):
            peer.write_now(advert, b"x" * 2, offset=6 * GIB - 1)
        part = registered.advertise(5 * GIB, GIB)
        peer.write_now(part, b"end", offset=GIB - 3)
        assert memory[6 * GIB - 3 :] == b"end"


def test_a_transfer_of_more_than_four_gibibytes_counts_all_of_them(memory: mmap.mmap) -> None:
    with Endpoint.listen(secret=b"tests") as owner, Endpoint.listen(secret=b"tests") as other:
        peer, into = other.connect(owner.metadata), bytearray(64 << 20)
        memory[GIB : GIB + (64 << 20)] = bytes(range(256)) * (1 << 18)
        with owner.register(memory) as registered:
            items = [(registered.advertise(), GIB, into)] * 65
            assert peer.readv(items).wait() == 65 * (64 << 20) > 2**32
        assert into == memory[GIB : GIB + (64 << 20)]
