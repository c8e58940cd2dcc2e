"""Ids are types, parsed once at the edge.

Past this file there is no bare string standing for a thing: a `NodeId` is known to be well formed because the only
way to one is `parse_node_id`. The types are `NewType`s and cost nothing at run time, so an id is its own key in a
table and its own bytes in the log.
"""

import re
from typing import Final, NewType

from weft.model.errors import InvalidField

NodeId = NewType("NodeId", str)
RegionId = NewType("RegionId", str)
RegionName = NewType("RegionName", str)
AttachmentId = NewType("AttachmentId", str)
PlacementId = NewType("PlacementId", str)
RequestId = NewType("RequestId", str)
ClusterId = NewType("ClusterId", bytes)
Incarnation = NewType("Incarnation", int)
Generation = NewType("Generation", int)
Position = NewType("Position", int)
Term = NewType("Term", int)

CLUSTER_ID_BYTES: Final = 16
INTEGER_ID_MAX: Final = 2**63 - 1

_NODE_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_REGION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_REGION_ID = re.compile(r"r[0-9a-f]{16}")
_ATTACHMENT_ID = re.compile(r"a[0-9a-f]{16}")
_PLACEMENT_ID = re.compile(r"p[0-9a-f]{16}")
_INCARNATION = re.compile(r"[0-9a-f]{16}")
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
_CANONICAL_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")


def parse_node_id(value: str | int, field: str = "node_id") -> NodeId:
    """The id a caller wrote. An integer n is the id "n", so a body's node 0 and a path's "0" are one node."""
    if isinstance(value, int):
        if not 0 <= value <= INTEGER_ID_MAX:
            raise InvalidField("a node id written as a number lies in 0 to 2^63 - 1", field=field)
        return NodeId(str(value))
    if _NODE_ID.fullmatch(value) is None:
        raise InvalidField("a node id is 1 to 256 letters, digits, dots, dashes or underscores", field=field)
    return NodeId(value)


def spell_node_id(node_id: NodeId) -> str | int:
    """How the cluster door writes an id: as an integer when it reads as one, and as text otherwise."""
    if _CANONICAL_INTEGER.fullmatch(node_id) is not None and (number := int(node_id)) <= INTEGER_ID_MAX:
        return number
    return node_id


def parse_region_name(value: str, field: str = "name") -> RegionName:
    """The name of a region."""
    if _REGION_NAME.fullmatch(value) is None:
        raise InvalidField("a region name is 1 to 128 letters, digits, dots, dashes or underscores", field=field)
    return RegionName(value)


def parse_region_id(value: str, field: str = "region_id") -> RegionId:
    """The id the coordinator minted for a region."""
    if _REGION_ID.fullmatch(value) is None:
        raise InvalidField("a region id is 'r' and 16 lower-case hex digits", field=field)
    return RegionId(value)


def parse_attachment_id(value: str, field: str = "attachment_id") -> AttachmentId:
    """The id the coordinator minted for an attachment."""
    if _ATTACHMENT_ID.fullmatch(value) is None:
        raise InvalidField("an attachment id is 'a' and 16 lower-case hex digits", field=field)
    return AttachmentId(value)


def parse_placement_id(value: str, field: str = "placement_id") -> PlacementId:
    """The id the coordinator minted for a job's place."""
    if _PLACEMENT_ID.fullmatch(value) is None:
        raise InvalidField("a placement id is 'p' and 16 lower-case hex digits", field=field)
    return PlacementId(value)


def parse_request_id(value: str, field: str = "Weft-Request-Id") -> RequestId:
    """The id a caller gave a request, under which a repeat is recognised."""
    if _REQUEST_ID.fullmatch(value) is None:
        raise InvalidField("a request id is 1 to 128 letters, digits, dots, dashes, colons or underscores", field=field)
    return RequestId(value)


def parse_incarnation(value: str, field: str = "incarnation") -> Incarnation:
    """One life of a process. Zero means "none yet" on the wire, so no process may call itself that."""
    if _INCARNATION.fullmatch(value) is None or (number := int(value, 16)) == 0:
        raise InvalidField("an incarnation is 16 lower-case hex digits, not all zero", field=field)
    return Incarnation(number)


def spell_incarnation(incarnation: Incarnation) -> str:
    """The 16 hex digits JSON carries: a JSON number loses a 64-bit integer's low bits in many readers."""
    return f"{incarnation:016x}"


def parse_cluster_id(value: str, field: str = "cluster_id") -> ClusterId:
    """The cluster id as JSON carries it."""
    if _CLUSTER_ID.fullmatch(value) is None:
        raise InvalidField("a cluster id is 32 lower-case hex digits", field=field)
    return ClusterId(bytes.fromhex(value))


def mint_region_id(chance: int) -> RegionId:
    """A region id from 64 random bits."""
    return RegionId(f"r{chance:016x}")


def mint_placement_id(chance: int) -> PlacementId:
    """A placement id from 64 random bits."""
    return PlacementId(f"p{chance:016x}")


def mint_attachment_id(chance: int) -> AttachmentId:
    """An attachment id from 64 random bits."""
    return AttachmentId(f"a{chance:016x}")
