"""The ways of one endpoint: chosen by records, kept, counted, and given up with the lives they lead to."""

from collections.abc import Iterator

import msgspec
import pytest

from weft.dataplane.choice import Registered
from weft.dataplane.endpoint import Endpoint
from weft.dataplane.rdma import RdmaRecord
from weft.dataplane.ways import Ways
from weft.model.errors import EndpointNotFound, Unreachable

SECRET = b"the secret of these tests"
SIZE = 1 << 20


def registered(endpoint: Endpoint, name: str | None = None) -> Registered:
    host, port = endpoint.address
    return Registered(name=name or endpoint.name, host=host, port=port, version=1)


class Two:
    """An owner of memory, and another with ways to it."""

    def __init__(self, transport: str | None = None) -> None:
        self.owner = Endpoint.listen(secret=SECRET, name="owner", transport=transport)
        self.other = Endpoint.listen(secret=SECRET, name="other", transport=transport)
        self.said: list[str] = []
        own = registered(self.other)
        self.ways = Ways(self.other, own, only=transport, say=self.said.append)
        self.records = {"owner": registered(self.owner), "other": own}
        self.ways.learn(self.records)
        self.memory = bytearray(SIZE)
        self.advert = self.owner.register(self.memory).advertise()

    def registers(self, name: str, **changes: object) -> None:
        record = self.records[name]
        self.records[name] = msgspec.structs.replace(record, version=record.version + 1, **changes)
        self.ways.learn(dict(self.records))
        self.ways.tend()


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two()
    yield made
    made.other.close()
    made.owner.close()


@pytest.fixture
def far() -> Iterator[Two]:
    made = Two("tcp")
    yield made
    made.other.close()
    made.owner.close()


def test_a_peer_is_connected_once_and_is_on_the_best_way(two: Two) -> None:
    peer = two.ways.peer("owner")
    assert peer.transport == "ipc"
    assert two.ways.peer("owner") is peer
    assert [line.split(" (")[0] for line in two.said] == ["owner is reached by ipc"]


def test_what_moved_is_counted_by_what_carried_it_also_by_ways_that_were_given_up(two: Two) -> None:
    for _ in range(2):
        with two.ways.connect("owner") as peer:
            assert peer.read_now(two.advert, bytearray(SIZE)) == SIZE
    [report] = two.ways.reports()
    assert (report.name, report.transport, report.moved_bytes) == ("owner", "ipc", {"ipc": 2 * SIZE})
    assert report.distance is not None
    assert len(two.said) == 1, "said once, however often it is connected to"


def test_each_change_of_a_record_is_heeded_and_said_once(far: Two) -> None:
    peer = far.ways.peer("owner")
    device = RdmaRecord(queue_pair=1, lid=0, gid="fe80::1", packet_sequence=1)
    far.registers("owner", rdma=device, prefers="rdma")
    far.registers("other", rdma=device, prefers="rdma")
    far.registers("owner", prefers="tcp")
    far.ways.tend()
    assert peer.transport == "tcp"
    # WEFT_TRANSPORT keeps to one, which is the reason throughout.
    assert len(far.said) == 1
    assert all("keeps this process to tcp" in reason for reason in far.ways.reports()[0].reasons)


def test_a_device_that_is_registered_and_cannot_be_had_is_passed_over_with_its_reason(two: Two) -> None:
    two.ways = Ways(two.other, two.records["other"], unfit={"ipc": "it is not wanted here"}, say=two.said.append)
    device = RdmaRecord(queue_pair=1, lid=0, gid="fe80::1", packet_sequence=1)
    two.ways.learn(two.records)
    peer = two.ways.peer("owner")
    two.registers("owner", rdma=device, prefers="rdma")
    two.registers("other", rdma=device, prefers="rdma")
    assert peer.transport == "tcp"
    assert two.said[-1].startswith(
        "owner is reached by tcp; ipc not used with owner: it is not wanted here; "
        "rdma not used with owner: this endpoint uses no RDMA device"
    )
    assert peer.read_now(two.advert, bytearray(SIZE)) == SIZE


def test_a_way_to_a_life_that_ended_is_given_up_and_the_next_leads_to_the_new_one(two: Two) -> None:
    peer = two.ways.peer("owner")
    two.owner.close()
    two.owner = Endpoint.listen(secret=SECRET, name="owner")
    host, port = two.owner.address
    two.registers("owner", host=host, port=port)
    assert peer.is_closed
    again = two.ways.peer("owner")
    assert again.incarnation == two.owner.incarnation != peer.incarnation


def test_another_life_at_the_same_address_is_found_out_by_its_record(two: Two) -> None:
    peer, (_, port) = two.ways.peer("owner"), two.owner.address
    two.owner.close()
    two.owner = Endpoint.listen(secret=SECRET, name="owner", port=port)
    two.registers("owner")
    assert peer.is_closed
    assert two.ways.peer("owner").incarnation == two.owner.incarnation


def test_who_is_not_registered_or_is_somebody_else_is_no_peer(two: Two) -> None:
    with pytest.raises(EndpointNotFound):
        two.ways.peer("nobody")
    two.ways.learn({**two.records, "third": registered(two.owner, "third")})
    with pytest.raises(Unreachable, match="owner answers where third is registered"):
        two.ways.peer("third")
