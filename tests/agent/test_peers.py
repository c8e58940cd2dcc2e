"""When a node measures the way to which peer, and what it says about a slow one."""

from weft.agent.peers import MEASURE_AGAIN_S, PeerAddress, Peers
from weft.model.ids import NodeId


def peer(name: str, port: int = 50051) -> PeerAddress:
    return PeerAddress(node_id=NodeId(name), transport="tcp", host="127.0.0.1", port=port)


def test_a_new_peer_is_due_at_once_and_then_once_a_minute() -> None:
    peers = Peers()
    peers.learn([peer("b")])

    assert peers.next_due(100.0) == peer("b")
    peers.measured(peer("b"), 40.0, "fast", 100.0)
    assert peers.next_due(100.0 + MEASURE_AGAIN_S - 1) is None
    assert peers.wait_s(100.0) == MEASURE_AGAIN_S
    assert peers.next_due(100.0 + MEASURE_AGAIN_S) == peer("b")


def test_a_peer_that_moved_is_measured_anew() -> None:
    peers = Peers()
    peers.learn([peer("b")])
    peers.measured(peer("b"), 40.0, "fast", 100.0)

    assert peers.learn([peer("b", port=50052)]) == ["b"]
    assert peers.next_due(100.0) == peer("b", port=50052)
    assert peers.reports() == []


def test_a_measurement_of_a_peer_that_left_is_dropped() -> None:
    peers = Peers()
    peers.learn([peer("b")])
    peers.learn([])

    assert peers.measured(peer("b"), 40.0, "slow", 100.0) is None
    assert peers.reports() == []


def test_a_slow_peer_is_a_warning_with_a_hint_once() -> None:
    peers = Peers()
    peers.learn([peer("b")])

    warning = peers.measured(peer("b"), 900.0, "slow", 100.0)
    assert warning is not None
    assert warning.startswith("node b is 900 us away over tcp: ")
    assert "10 Gbit/s" in warning
    assert peers.measured(peer("b"), 950.0, "slow", 200.0) is None


def test_a_peer_that_does_not_answer_is_not_asked_again_for_a_minute() -> None:
    peers = Peers()
    peers.learn([peer("b"), peer("c")])
    peers.missed(peer("b"), 100.0)

    assert peers.next_due(100.0) == peer("c")
    peers.missed(peer("c"), 101.0)
    assert peers.next_due(102.0) is None
