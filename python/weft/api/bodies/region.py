"""Regions and attachments over HTTP. Unknown fields are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from weft.api.bodies.cluster import EndpointInfo
from weft.api.bodies.fields import Name, PositiveCount, RegionNameText, WaitMs, iso_time
from weft.model.attachment import Attachment
from weft.model.ids import spell_incarnation
from weft.model.policy import REGION_LENDERS_MAX, STRIPE_BYTES
from weft.model.region import Extent, Layout, Region


class RegionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region to be planned. `lenders` is how many machines it may be spread over, at most."""

    name: RegionNameText
    size_bytes: PositiveCount
    lenders: Annotated[int, Meta(ge=1, le=REGION_LENDERS_MAX)] | None = None


class AttachmentBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish to map a region. `holder` is what a person calls the process."""

    mode: Literal["read", "exclusive", "private", "shared"]
    holder: Name
    takeover: bool = False


class EmptyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing to say; `{}`, or no body at all."""


class WaitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait for a planned region to become something else."""

    wait_ms: WaitMs = 0


class ForceQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether to close the attachments that are in the way."""

    force: bool = False


class ReplicaInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of an extent, and the life of the node that holds it."""

    node_id: str
    incarnation: str


class ExtentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One lender's part of a band."""

    index: int
    stripes: int
    replicas: list[ReplicaInfo]


class BandInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A run of stripes, dealt over extents in turn."""

    first_stripe: int
    stripes: int
    extents: list[ExtentInfo]


class LayoutInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything in a region lives."""

    generation: int
    stripe_bytes: int
    bands: list[BandInfo]


class AttachmentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An open attachment, without its grant: that is its holder's alone."""

    attachment_id: str
    mode: str
    holder: str
    generation: int


class RegionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A region. `size_bytes` is what was asked for, `reserved_bytes` what lenders set aside for it."""

    name: str
    region_id: str
    size_bytes: int
    reserved_bytes: int
    state: Literal["planned", "ready", "damaged", "deleting", "failed"]
    generation: int
    sealed: bool
    layout: LayoutInfo
    attachments: list[AttachmentInfo]
    lost_extents: list[int]
    error: str | None
    created_at: str


class RegionList(msgspec.Struct, frozen=True, kw_only=True):
    """Every region, and what the machines that can be given work lend."""

    regions: list[RegionInfo]
    lent_bytes: int
    free_bytes: int


class RegionDeleting(msgspec.Struct, frozen=True, kw_only=True):
    """The region is on its way out."""

    status: Literal["deleting"] = "deleting"
    name: str


class AttachmentOpenedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment and all that is needed to use it: the grant, where every part lives, and how to get there."""

    attachment_id: str
    mode: str
    holder: str
    generation: int
    grant: bytes
    expires_at_ms: int
    region: RegionInfo
    endpoints: dict[str, EndpointInfo]


class GrantRenewed(msgspec.Struct, frozen=True, kw_only=True):
    """A grant with a later end, otherwise the same."""

    grant: bytes
    expires_at_ms: int


class AttachmentDetached(msgspec.Struct, frozen=True, kw_only=True):
    """The attachment is closed."""

    status: Literal["detached"] = "detached"
    attachment_id: str


def region_info(region: Region, attachments: list[Attachment]) -> RegionInfo:
    """A region as JSON has it."""
    return RegionInfo(
        name=region.name,
        region_id=region.region_id,
        size_bytes=region.size_bytes,
        reserved_bytes=region.reserved_bytes,
        state=region.state.value,
        generation=region.generation,
        sealed=region.sealed,
        layout=_layout_info(region.layout),
        attachments=[_attachment_info(attachment) for attachment in attachments],
        lost_extents=list(region.lost_extents),
        error=region.error,
        created_at=iso_time(region.created_at_ms),
    )


def _layout_info(layout: Layout) -> LayoutInfo:
    bands = [
        BandInfo(
            first_stripe=band.first_stripe,
            stripes=band.stripes,
            extents=[_extent_info(extent) for extent in band.extents],
        )
        for band in layout.bands
    ]
    return LayoutInfo(generation=layout.generation, stripe_bytes=STRIPE_BYTES, bands=bands)


def _extent_info(extent: Extent) -> ExtentInfo:
    replicas = [
        ReplicaInfo(node_id=replica.node_id, incarnation=spell_incarnation(replica.incarnation))
        for replica in extent.replicas
    ]
    return ExtentInfo(index=extent.index, stripes=extent.stripes, replicas=replicas)


def _attachment_info(attachment: Attachment) -> AttachmentInfo:
    return AttachmentInfo(
        attachment_id=attachment.attachment_id,
        mode=attachment.mode.value,
        holder=attachment.holder,
        generation=attachment.generation,
    )
