"""Objects and their copies over HTTP. The storage seed's routes ignore unknown fields; Weft's own refuse them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import Count, NodeIdNumber, NodeIdText, ObjectHashText
from weft.model.policy import OBJECT_LIST_MAX, REPLICA_COUNT, REPLICA_COUNT_MAX

ObjectState = Literal["healthy", "under_replicated", "absent"]


class ObjectBody(msgspec.Struct, frozen=True, kw_only=True):
    """An object to be put into the books. `rf`, how many copies are wanted, is Weft's own."""

    hash: ObjectHashText
    size: Count
    rf: Annotated[int, Meta(ge=1, le=REPLICA_COUNT_MAX)] = REPLICA_COUNT


class ReplicaBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node's copy of an object."""

    hash: ObjectHashText
    node_id: NodeIdNumber | NodeIdText


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object. `replicas` are the nodes that hold a copy and are there; those in `offline` took theirs along.

    The first three fields are the seed's, the others Weft's own. An object is *absent* when no node that is there
    holds a copy, and *under_replicated* when there are fewer than there should be and could be.
    """

    hash: str
    size: int
    replicas: list[str]
    rf: int
    state: ObjectState
    offline: list[str]


class ObjectsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which objects to list: all, or only those with too few copies, or only those with none; after one, so many."""

    under_replicated: bool = False
    absent: bool = False
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=OBJECT_LIST_MAX)] = OBJECT_LIST_MAX


class ObjectList(msgspec.Struct, frozen=True, kw_only=True):
    """Objects in order of hash, and how many there are in all. `next` begins the next page; None when this is the last.

    `healing` is how many copies are planned at this moment, `stores` how many nodes could be given one, and `deleting`
    how many objects were deleted, and so are not listed, and still take room on a node.
    """

    objects: list[ObjectInfo]
    next: str | None
    total: int
    under_replicated: int
    absent: int
    deleting: int
    healing: int
    stores: int


class TargetsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nodes that are not to be named again, separated by commas: they were asked and would not."""

    without: str = ""


class ObjectTargets(msgspec.Struct, frozen=True, kw_only=True):
    """Where an object should be put, the first one first. Nodes that hold it already may be among them.

    Where there are fewer than copies wanted, `passed_over` are nodes that could be among them and are not, with why: so
    that whoever puts knows a cluster that has few nodes from one that has lost some.
    """

    hash: str
    targets: list[str]
    passed_over: dict[str, str] = {}
