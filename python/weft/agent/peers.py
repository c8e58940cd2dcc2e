"""How far a node's peers are: which to measure next, what tier each is in, and a hint where one is slow.

A slow network is a warning, never an error: everything works over it. Tiers are per peer and by measured round trip:
`fast` below 150 us, `standard` below 500 us, `slow` above.

Pure: the shell measures and reports; what is measured is bounded to one peer at a time, each at most once a minute.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from weft.model.ids import NodeId

# A round trip says something about a network for far longer than this; the minute is for networks that are changed.
MEASURE_AGAIN_S = 60.0

_SLOW_TIER = "slow"
_HINT = "every page from there takes at least that long; a wired 10 Gbit/s network, or a nearer node, makes it fast"


class PeerAddress(Struct, frozen=True, kw_only=True):
    """Where a peer listens. `version` grows when its endpoint is registered again."""

    node_id: NodeId
    transport: str
    host: str
    port: int


class PeerReport(Struct, frozen=True, kw_only=True):
    """What was measured, as a beat carries it."""

    node_id: NodeId
    transport: str
    rtt_us: float
    tier: str


class Peers:
    """The peers of one node and what is known of the way to each."""

    def __init__(self) -> None:
        self._addresses: dict[NodeId, PeerAddress] = {}
        self._reports: dict[NodeId, PeerReport] = {}
        self._due_s: dict[NodeId, float] = {}

    def learn(self, addresses: Sequence[PeerAddress]) -> list[NodeId]:
        """Takes the list as it is now; returns those that are new or moved, which are measured anew."""
        known = self._addresses
        self._addresses = {address.node_id: address for address in addresses}
        changed = [node_id for node_id, address in self._addresses.items() if known.get(node_id) != address]
        for node_id in changed:
            self._due_s.pop(node_id, None)
            self._reports.pop(node_id, None)
        for node_id in known.keys() - self._addresses.keys():
            self._due_s.pop(node_id, None)
            self._reports.pop(node_id, None)
        return changed

    def next_due(self, now_s: float) -> PeerAddress | None:
        """The peer to measure now, the longest waiting first, or None."""
        due = [node_id for node_id in self._addresses if self._due_s.get(node_id, 0.0) <= now_s]
        return self._addresses[min(due, key=lambda node_id: self._due_s.get(node_id, 0.0))] if due else None

    def wait_s(self, now_s: float) -> float:
        """How long until the next peer is due."""
        first_s = min((self._due_s.get(node_id, now_s) for node_id in self._addresses), default=now_s + MEASURE_AGAIN_S)
        return max(0.0, first_s - now_s)

    def measured(self, address: PeerAddress, rtt_us: float, tier: str, now_s: float) -> str | None:
        """Keeps a measurement; returns a warning when the peer has become slow."""
        if self._addresses.get(address.node_id) != address:
            return None
        before = self._reports.get(address.node_id)
        self._due_s[address.node_id] = now_s + MEASURE_AGAIN_S
        self._reports[address.node_id] = PeerReport(
            node_id=address.node_id, transport=address.transport, rtt_us=round(rtt_us, 1), tier=tier
        )
        if tier != _SLOW_TIER or (before is not None and before.tier == tier):
            return None
        return f"node {address.node_id} is {rtt_us:.0f} us away over {address.transport}: {_HINT}"

    def missed(self, address: PeerAddress, now_s: float) -> None:
        """A peer could not be measured; it is asked again when its minute is over, and its last report is dropped."""
        if self._addresses.get(address.node_id) == address:
            self._due_s[address.node_id] = now_s + MEASURE_AGAIN_S
            self._reports.pop(address.node_id, None)

    def reports(self) -> Sequence[PeerReport]:
        """What is known, for the next beat."""
        return list(self._reports.values())

    @property
    def addresses(self) -> Mapping[NodeId, PeerAddress]:
        """Who is there."""
        return self._addresses
