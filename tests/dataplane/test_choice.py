"""The table of transports: what both ends registered, what they found out when they met, and what comes of it."""

import msgspec
import pytest

from weft.dataplane.choice import Meeting, Registered, choose
from weft.dataplane.rdma import RdmaRecord

ETHERNET = RdmaRecord(queue_pair=12_345, lid=0, gid="fe80::1", packet_sequence=100)
INFINIBAND = RdmaRecord(queue_pair=12_345, lid=7, gid="fe80::2", packet_sequence=100)
FAR = Meeting(same_machine=False, same_user=True, answers_here=True, answers_there=True)
NEAR = Meeting(same_machine=True, same_user=True, answers_here=True, answers_there=True)


def side(name: str, rdma: RdmaRecord | None = None, prefers: str | None = None) -> Registered:
    preferred = prefers or ("tcp" if rdma is None else "rdma")
    return Registered(name=name, host="192.168.1.10", port=50_051, rdma=rdma, prefers=preferred, version=1)


BOTH = (side("a", ETHERNET), side("b", ETHERNET))


@pytest.mark.parametrize(
    ("ours", "theirs", "meeting", "transport", "reasons"),
    [
        (*BOTH, NEAR, "ipc", {}),
        (*BOTH, FAR, "rdma", {"ipc": "b runs on another machine, or in a container of its own"}),
        (side("a"), BOTH[1], FAR, "tcp", {"rdma": "a registered none"}),
        (BOTH[0], side("b"), FAR, "tcp", {"rdma": "b registered none"}),
        (side("a"), side("b"), FAR, "tcp", {"rdma": "a registered none"}),
        (side("a", ETHERNET, "tcp"), BOTH[1], FAR, "tcp", {"rdma": "a registered tcp after it"}),
        (BOTH[0], side("b", ETHERNET, "tcp"), FAR, "tcp", {"rdma": "b registered tcp after it"}),
        (BOTH[0], side("b", INFINIBAND), FAR, "tcp", {"rdma": "a is on Ethernet and b on InfiniBand"}),
        (side("a", INFINIBAND), side("b", INFINIBAND), FAR, "rdma", {}),
        (*BOTH, msgspec.structs.replace(NEAR, same_user=False), "rdma", {"ipc": "b runs as another user"}),
        (*BOTH, msgspec.structs.replace(NEAR, answers_here=False), "rdma", {"ipc": "a answers no neighbours"}),
        (*BOTH, msgspec.structs.replace(NEAR, answers_there=False), "rdma", {"ipc": "b answers no neighbours"}),
    ],
)
def test_the_best_is_chosen_that_both_ends_have(
    ours: Registered, theirs: Registered, meeting: Meeting, transport: str, reasons: dict[str, str]
) -> None:
    choice = choose(ours, theirs, meeting)
    assert choice.transport == transport
    assert reasons.items() <= {one.transport: one.reason for one in choice.passed_over}.items()


def test_what_is_better_and_not_used_is_named_with_its_peer_and_its_reason() -> None:
    choice = choose(side("nodeA", ETHERNET), side("nodeB"), FAR)
    assert choice.reasons[1] == "rdma not used with nodeB: nodeB registered none"
    assert str(choice).startswith("nodeB is reached by tcp; ipc not used with nodeB: nodeB runs on another machine")


def test_what_was_tried_and_failed_is_passed_over_with_what_it_failed_of() -> None:
    choice = choose(*BOTH, FAR, failed={"rdma": "the beacon was not read"})
    assert choice.transport == "tcp"
    assert choice.reasons[1] == "rdma not used with b: the beacon was not read"
    assert choose(*BOTH, NEAR, failed={"ipc": "no"}).transport == "rdma"


@pytest.mark.parametrize(
    ("only", "meeting", "transport"),
    [("tcp", NEAR, "tcp"), ("rdma", NEAR, "rdma"), ("ipc", NEAR, "ipc"), ("ipc", FAR, "tcp"), ("tcpx", NEAR, "tcpx")],
)
def test_a_process_may_keep_to_one_and_tcp_is_used_where_that_one_does_not_work(
    only: str, meeting: Meeting, transport: str
) -> None:
    assert choose(*BOTH, meeting, only=only).transport == transport


def test_bounce_buffers_are_for_those_who_ask_for_them() -> None:
    for meeting in (NEAR, FAR):
        choice = choose(*BOTH, meeting)
        assert choice.transport != "tcpx"
        assert all(one.transport != "tcpx" for one in choice.passed_over)
