"""Observations: what nodes last said of their pools and of how busy they are.

Nothing here stands in the log and nothing here outlives the process: after a restart every node says it all again
within a beat. What a node said of its pools it said of all of them, so a pool it no longer names is gone. A node that
leaves, or begins another life, takes its observations with it.

Nearly every beat says of the pools what the beat before it said. So the *word* that pools were read from is kept beside
them, and one that is the same leads to the same without being read again: only who listens is told that the node spoke.
What if something else has happened to the node in between? Then its row in the state is another one, and the row is
part of the word. What if the pools were described or forgotten in another way? Then their word is gone with them.

Those who reserve slots listen here: a slot that was reserved on the strength of one word is the node's own business
from the next word on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from weft.api.bodies.pools import PoolBody
from weft.core.state import Draft
from weft.model.events import ClusterDestroyed, Event, NodeIncarnated, NodeRemoved
from weft.model.ids import NodeId
from weft.model.node import Node
from weft.model.pool import PoolKey, PoolSnapshot, Seat
from weft.model.stats import NodeStats

POOLS_PER_NODE_MAX: Final = 256
"""Replicas of pools one node may describe; a machine has a few devices and a few engines on each."""


class Word(NamedTuple):
    """What a node said of its pools, and the row it had when it did."""

    node: Node
    pools: Sequence[PoolBody]


class Observations:
    """The latest word of every node."""

    def __init__(self) -> None:
        self._pools: dict[NodeId, dict[Seat, PoolSnapshot]] = {}
        self._words: dict[NodeId, Word] = {}
        self._stats: dict[NodeId, NodeStats] = {}
        self._listeners: list[Callable[[NodeId], None]] = []

    def on_pools(self, listener: Callable[[NodeId], None]) -> None:
        """Be told of a node whose pools were described anew, or forgotten."""
        self._listeners.append(listener)

    def see_pools(self, node_id: NodeId, pools: Iterable[PoolSnapshot], word: Word | None = None) -> None:
        """A node described its pools, all of them, in this word. Past the bound the last ones are not kept."""
        described = {pool.seat: pool for pool in pools}
        self._pools[node_id] = dict(islice(described.items(), POOLS_PER_NODE_MAX))
        if word is None:
            self._words.pop(node_id, None)
        else:
            self._words[node_id] = word
        self._tell(node_id)

    def knows(self, node: Node, pools: Sequence[PoolBody]) -> bool:
        """Whether a node says what its pools were read from, and nothing has happened to it since."""
        word = self._words.get(node.node_id)
        # Rows are never changed but replaced, so the same row is one that nothing has happened to.
        return word is not None and word.node is node and word.pools == pools

    def see_again(self, node_id: NodeId) -> None:
        """A node said once more what it is known to have said: it has spoken, and there is no more to do about it."""
        self._tell(node_id)

    def see_stats(self, node_id: NodeId, stats: NodeStats) -> None:
        """A node, or somebody for it, said how busy it is."""
        self._stats[node_id] = stats

    def pools_of(self, node_id: NodeId) -> Mapping[Seat, PoolSnapshot]:
        """A node's pools by replica; empty when it never described any."""
        return self._pools.get(node_id) or {}

    def pool(self, key: PoolKey) -> PoolSnapshot | None:
        """One replica of a pool, or None."""
        return self.pools_of(key[0]).get(key[1:])

    @property
    def pools(self) -> Mapping[NodeId, Mapping[Seat, PoolSnapshot]]:
        """Every pool, by node and replica."""
        return self._pools

    @property
    def stats(self) -> Mapping[NodeId, NodeStats]:
        """What is known of how busy nodes are."""
        return self._stats

    def forget(self, node_id: NodeId) -> None:
        """Drop everything of a node."""
        self._stats.pop(node_id, None)
        self._words.pop(node_id, None)
        if self._pools.pop(node_id, None) is not None:
            self._tell(node_id)

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Forget the nodes a batch took away, and what an ended life of one said."""
        for event in events:
            if isinstance(event, NodeRemoved | NodeIncarnated):
                self.forget(event.node_id)
            elif isinstance(event, ClusterDestroyed):
                for node_id in {*self._pools, *self._stats}:
                    self.forget(node_id)

    def _tell(self, node_id: NodeId) -> None:
        for listener in self._listeners:
            listener(node_id)
