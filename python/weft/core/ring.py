"""The ring: where a key belongs, from nothing but who is in the cluster.

Every member stands at some points of a circle of 2^64, more of them the more it can hold. A key stands at one point,
and its nodes are the first distinct ones met from there on. A member's points follow from its own id and capacity
alone, so one that joins or leaves moves only the keys that come to it or were its own.

    point v of a member    the first 8 bytes, big-endian, of SHA-256(id ":" v in decimal)
    point of a key         the first 8 bytes, big-endian, of SHA-256(key in UTF-8)

The walk takes first the first node of every zone it has not met, then the other nodes in the order they were met. So
no node comes twice, and no zone comes twice before every zone came once. A node that is set aside (it is silent, it is
draining) is walked past as if it had no points: its keys go on to the nodes that would have them if it left.

A ring is a value. Its points are two flat arrays, twelve bytes a point; `with_member` and `without` make the next ring
from this one by merging, which for the largest member takes milliseconds where building anew would take as much for
each member there is.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from weft.model.ids import NodeId
from weft.model.node import Node
from weft.model.policy import RING_POINTS_MAX, RING_POINTS_PER_UNIT

POINT_BYTES: Final = 8
_PLACE_BITS: Final = 32
_PLACE_MASK: Final = (1 << _PLACE_BITS) - 1
_DECIMALS: Final = tuple(str(index).encode() for index in range(RING_POINTS_MAX))


class Member(NamedTuple):
    """What placement knows of a node. `point_count` is its weight."""

    node_id: NodeId
    zone: str
    point_count: int = RING_POINTS_PER_UNIT


def point_count(capacity_gb: float, unit_gb: int) -> int:
    """How many points a capacity gives: 64 for each unit, at least one unit, at most what a build should cost.

    It rounds half up, not half to even: `round(2.5)` is 2 in Python and 3 to everybody who reads the rule.
    """
    units = max(1, int(capacity_gb / unit_gb + 0.5))
    return min(RING_POINTS_PER_UNIT * units, RING_POINTS_MAX)


def describe_member(node: Node, unit_gb: int) -> Member:
    """A node as placement sees it."""
    return Member(node_id=node.node_id, zone=node.zone, point_count=point_count(node.capacity_gb, unit_gb))


def key_point(key: str) -> int:
    """Where a key stands. Text that is not UTF-8 stands where its bytes would."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:POINT_BYTES], "big")


def member_points(member: Member) -> list[int]:
    """A member's points, in order of place."""
    start = hashlib.sha256(f"{member.node_id}:".encode())
    points: list[int] = []
    for decimal in _DECIMALS[: member.point_count]:
        # What is common to all of a member's points is hashed once and copied, which halves the time.
        hashed = start.copy()
        hashed.update(decimal)
        points.append(int.from_bytes(hashed.digest()[:POINT_BYTES], "big"))
    points.sort()
    return points


class Ring:
    """Members at their points. Empty without members; `Ring.of` makes one of many.

    Each point's owner is a place in `members`. The place of a member that left is None until somebody takes it.
    """

    __slots__ = ("_members", "_owners", "_places", "_points", "_zone_counts")

    def __init__(
        self,
        members: Sequence[Member | None] = (),
        points: "array[int] | None" = None,
        owners: "array[int] | None" = None,
    ) -> None:
        self._members = members
        self._points = points if points is not None else array("Q")
        self._owners = owners if owners is not None else array("I")
        self._places = {member.node_id: place for place, member in enumerate(members) if member is not None}
        self._zone_counts = Counter(member.zone for member in members if member is not None)

    @classmethod
    def of(cls, members: Iterable[Member]) -> "Ring":
        """The ring of these members. They may come in any order: what comes out is the same."""
        held = sorted(members)
        seats = [point << _PLACE_BITS | place for place, member in enumerate(held) for point in member_points(member)]
        return cls._seated(held, seats)

    @classmethod
    def _seated(cls, members: Sequence[Member | None], seats: list[int]) -> "Ring":
        """The ring of points and their owners. The two are sorted as one number, in half the time of a pair."""
        seats.sort()
        points = array("Q", [seat >> _PLACE_BITS for seat in seats])
        return cls(members, points, array("I", [seat & _PLACE_MASK for seat in seats]))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size_bytes(self) -> int:
        """What the points take in memory."""
        return len(self._points) * self._points.itemsize + len(self._owners) * self._owners.itemsize

    def member(self, node_id: NodeId) -> Member | None:
        """A member as the ring has it, or None."""
        place = self._places.get(node_id)
        return None if place is None else self._members[place]

    def members(self) -> list[Member]:
        """Every member, in order of id."""
        return sorted(member for member in self._members if member is not None)

    def with_member(self, member: Member) -> "Ring":
        """The ring with one member more, or with this one in the place of its former self."""
        if member.node_id in self._places:
            return self.without(member.node_id).with_member(member)
        members = list(self._members)
        place = next((place for place, held in enumerate(members) if held is None), len(members))
        members[place : place + 1] = [member]
        points, owners = array("Q"), array("I")
        done = 0
        for point in member_points(member):
            until = self._seat(point, member.node_id, done)
            points.extend(self._points[done:until])
            owners.extend(self._owners[done:until])
            points.append(point)
            owners.append(place)
            done = until
        return Ring(members, *self._with_rest(points, owners, done))

    def changed(self, members: Mapping[NodeId, Member | None]) -> "Ring":
        """The ring with these members in the place of their former selves; None for one that left.

        For many at once: what stays is not hashed again, and two sorted runs are merged in one pass.
        """
        gone = {place for node_id in members if (place := self._places.get(node_id)) is not None}
        kept = [None if place in gone else member for place, member in enumerate(self._members)]
        joining = sorted(member for member in members.values() if member is not None)
        seats = [
            point << _PLACE_BITS | owner
            for point, owner in zip(self._points, self._owners, strict=True)
            if owner not in gone
        ]
        for place, member in enumerate(joining, start=len(kept)):
            seats += [point << _PLACE_BITS | place for point in member_points(member)]
        return Ring._seated([*kept, *joining], seats)

    def without(self, node_id: NodeId) -> "Ring":
        """The ring with one member less; the same ring when it was none."""
        place = self._places.get(node_id)
        if place is None:
            return self
        members = list(self._members)
        member, members[place] = members[place], None
        assert member is not None, "a place that is known is taken"
        points, owners = array("Q"), array("I")
        done = 0
        for point in member_points(member):
            at = bisect_left(self._points, point, done)
            while self._owners[at] != place:
                at += 1
            points.extend(self._points[done:at])
            owners.extend(self._owners[done:at])
            done = at + 1
        return Ring(members, *self._with_rest(points, owners, done))

    def place(self, key: str, replica_count: int, aside: Collection[NodeId] = ()) -> list[NodeId]:
        """The nodes a key belongs on, the first one first: `replica_count` of them, or all there are.

        `aside` are the members walked past.
        """
        members, owners = self._members, self._owners
        skipped = {place for node_id in aside if (place := self._places.get(node_id)) is not None}
        wanted = min(replica_count, len(self._places) - len(skipped))
        if wanted <= 0:
            return []
        zones_left = self._zones_without(skipped) if skipped else len(self._zone_counts)
        leading: list[NodeId] = []
        others: list[NodeId] = []
        zones: set[str] = set()
        met = skipped
        start = bisect_left(self._points, key_point(key))
        for span in (range(start, len(owners)), range(start)):
            for index in span:
                owner = owners[index]
                if owner in met:
                    continue
                met.add(owner)
                member = members[owner]
                assert member is not None, "a point is a member's"
                if member.zone in zones:
                    others.append(member.node_id)
                else:
                    zones.add(member.zone)
                    leading.append(member.node_id)
                    zones_left -= 1
                if len(leading) == wanted or (not zones_left and len(leading) + len(others) >= wanted):
                    return (leading + others)[:wanted]
        raise AssertionError("a ring that has the nodes meets them in one round")

    def _zones_without(self, skipped: Iterable[int]) -> int:
        """How many zones have a member that is not skipped."""
        counts = self._zone_counts.copy()
        for place in skipped:
            member = self._members[place]
            assert member is not None, "only members are set aside"
            counts[member.zone] -= 1
        return sum(1 for count in counts.values() if count)

    def _with_rest(self, points: "array[int]", owners: "array[int]", done: int) -> "tuple[array[int], array[int]]":
        """Points and owners, and behind them this ring's from `done` on."""
        points.extend(self._points[done:])
        owners.extend(self._owners[done:])
        return points, owners

    def _seat(self, point: int, node_id: NodeId, start: int) -> int:
        """Where a point goes: behind equal points of smaller ids, so the order does not tell who came when."""
        at = bisect_left(self._points, point, start)
        while at < len(self._points) and self._points[at] == point:
            owner = self._members[self._owners[at]]
            if owner is not None and owner.node_id > node_id:
                break
            at += 1
        return at
