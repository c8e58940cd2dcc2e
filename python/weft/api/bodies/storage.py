"""The storage seed's bodies: nodes that register, and how busy they are. Unknown fields are ignored."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.fields import NodeIdText, PositiveCount, Quantity, Share, spelt, whole
from weft.model.policy import TEXT_LENGTH_MAX

HostPort = Annotated[
    str,
    Meta(
        pattern=whole(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}", "host:port, with an IPv6 host in brackets"),
        max_length=256,
    ),
]
ZoneName = Annotated[
    str, Meta(min_length=1, max_length=TEXT_LENGTH_MAX, pattern=spelt(r"\S", "a name that is not only spaces"))
]
"""A zone people can read: nodes whose zone is blank would fail together without anybody having said so."""


class StorageNodeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A node that registers."""

    id: NodeIdText
    zone: ZoneName
    addr: HostPort
    capacity_gb: PositiveCount = 100


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It was done."""

    ok: Literal[True] = True


class StorageNodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node by the seed's names."""

    id: str
    zone: str
    addr: str
    capacity_gb: int
    meta: dict[str, str]


class StatsBody(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a node is. Shares lie in 0 to 1; what is not a number is refused."""

    cpu_free: Share
    ram_free_mb: Quantity
    gpu_free: Quantity = 0.0
    latency_ms: Quantity = 10.0
    io_pressure: Share = 0.0


class StatsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """The figures were taken."""

    ok: Literal[True] = True
    node_id: str


class StatsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a node last said it was. One that never said, or is not there, is not found, which is no error."""

    node_id: str
    found: bool
    stats: StatsBody | None


class NodeStanding(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node stands in its life."""

    node_id: str | int
    status: Literal["joining", "online", "suspect", "draining", "offline", "gone"]
