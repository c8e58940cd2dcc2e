"""Slots of a node: lent to one peer at a time, reached by whatever way is best."""

from collections.abc import Iterator

import pytest

from weft.dataplane import Lender
from weft.dataplane.endpoint import Advert, Endpoint, Peer
from weft.model.errors import ExtentLost, ReadOnly

CLUSTER_ID = b"a test's id 0016"
SECRET = b"a test's secret"


@pytest.fixture
def lender() -> Iterator[Lender]:
    with Lender.listen(
        host="127.0.0.1",
        port_first=0,
        port_last=0,
        cluster_id=CLUSTER_ID,
        secret=SECRET,
        name="node",
        incarnation=7,
    ) as listening:
        yield listening


def caller(transport: str | None = None) -> Endpoint:
    return Endpoint.caller(secret=SECRET, name="caller", cluster_id=CLUSTER_ID, transport=transport)


def peer_of(endpoint: Endpoint, lender: Lender) -> Peer:
    return endpoint.connect(("127.0.0.1", lender.port))


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_what_is_put_into_a_slot_is_read_by_its_peer_and_the_other_way_round(lender: Lender, transport: str) -> None:
    slots = lender.slots()
    slots.back("one", 8192)
    with caller(transport) as endpoint, peer_of(endpoint, lender) as peer:
        room = Advert(slots.lend("one", write=True, lasts_ms=10_000))
        peer.write_now(room, b"hello")
        seen = bytearray(5)
        slots.read("one", seen)
        assert seen == b"hello"
        slots.write("one", b"world")
        peer.read_now(room, seen)
        assert seen == b"world"
        assert peer.transport == transport


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_whoever_had_a_slot_before_is_shut_out_by_the_next_use(lender: Lender, transport: str) -> None:
    slots = lender.slots()
    slots.back("one", 8192)
    with caller(transport) as endpoint, peer_of(endpoint, lender) as peer:
        before = Advert(slots.lend("one", write=True, lasts_ms=10_000))
        peer.write_now(before, b"mine")
        after = Advert(slots.lend("one", write=False, lasts_ms=10_000))
        with pytest.raises(ExtentLost):
            peer.read_now(before, bytearray(4))
        assert peer.read_now(after, bytearray(4)) == 4
        with pytest.raises(ReadOnly):
            peer.write_now(after, b"not")
