"""An endpoint: how a node's memory is reached.

It has a TCP half and an RDMA half, and prefers one. Registering replaces the half it names and prefers it; the other
half stays, as the handshake address and the way back. `version` grows with every registration, so a peer notices an
upgrade from TCP to RDMA without comparing fields.
"""

import ipaddress
import re
from enum import StrEnum
from typing import Final

import msgspec

from weft.model.errors import InvalidField
from weft.model.ids import NodeId

GID_BYTES: Final = 16
QUEUE_PAIR_MAX: Final = 2**24 - 1
SEQUENCE_MAX: Final = 2**24 - 1
LID_MAX: Final = 2**16 - 1
_GID_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{32})")


class TransportType(StrEnum):
    """The transports an endpoint can prefer, by the endpoint seed's names."""

    TCP = "tcp"
    RDMA = "rdma"


class TcpHalf(msgspec.Struct, frozen=True, kw_only=True, tag_field="transport", tag="tcp"):
    """Where a node listens."""

    address: str
    port: int


class RdmaHalf(msgspec.Struct, frozen=True, kw_only=True, tag_field="transport", tag="rdma"):
    """A queue pair's address: number, local id, global id and first packet sequence number."""

    queue_pair: int
    lid: int
    gid: bytes
    packet_sequence: int


EndpointHalf = TcpHalf | RdmaHalf


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Both halves as last registered. The preferred half is never None."""

    node_id: NodeId
    preferred: TransportType
    tcp: TcpHalf | None
    rdma: RdmaHalf | None
    version: int


def transport_of(half: EndpointHalf) -> TransportType:
    """The transport a half belongs to."""
    return TransportType.TCP if isinstance(half, TcpHalf) else TransportType.RDMA


def parse_gid(text: str, field: str = "rdma_gid") -> bytes:
    """The 16 bytes of a global id, written as IPv6 text or as 32 hex digits with or without 0x.

    The seed writes "fe80::a00:27ff:fe00:0" while its own pager wanted hex; both are one address.
    """
    if (digits := _GID_HEX.fullmatch(text)) is not None:
        return bytes.fromhex(digits[1])
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise InvalidField(f"{field}: a gid is an IPv6 address or 32 hex digits", field=field) from error
    if address.scope_id is not None:
        raise InvalidField(f"{field}: a gid has no zone; leave out what follows the percent sign", field=field)
    return address.packed


def spell_gid(gid: bytes) -> str:
    """A global id as IPv6 text, the form of the seed's examples."""
    return str(ipaddress.IPv6Address(gid))
