"""What a program holds: `connect`, and from there clusters, regions, attachments and the pager.

The descriptions are the coordinator's own words, handed on as they came.
"""

from weft.api.bodies.cluster import ClusterInfo, EndpointInfo, MemberBody, PeerInfo
from weft.api.bodies.events import EventInfo, encode_event
from weft.api.bodies.object import ObjectInfo, ObjectList
from weft.api.bodies.region import LayoutInfo, RegionInfo, RegionList
from weft.client.attachment import Attachment
from weft.client.client import AsyncClient, Client
from weft.client.cluster import Cluster, connect
from weft.client.member import Member
from weft.client.pager import PagerHandle, start_pager
from weft.client.region import Region

__all__ = [
    "AsyncClient",
    "Attachment",
    "Client",
    "Cluster",
    "ClusterInfo",
    "EndpointInfo",
    "EventInfo",
    "LayoutInfo",
    "Member",
    "MemberBody",
    "ObjectInfo",
    "ObjectList",
    "PagerHandle",
    "PeerInfo",
    "Region",
    "RegionInfo",
    "RegionList",
    "connect",
    "encode_event",
    "start_pager",
]
