"""Attachments: who may use a region, and the generation that fences off who no longer may.

Every attachment takes the next generation of its region. Lenders refuse whatever is older than the region's floor: the
oldest attachment that is open, or what the next one will get when none is. The floor never falls, so a holder whose
attachment was closed stays shut out, however late its requests arrive.
"""

import msgspec

from weft.core.holding import touch_holders
from weft.core.moment import Moment
from weft.core.region import existing_region, usable_region
from weft.core.state import Draft, View
from weft.model.attachment import Attachment, Closing, Mode
from weft.model.commands import CloseAttachment, OpenAttachment
from weft.model.errors import AttachmentConflict, AttachmentNotFound, NotYet, RegionNotSealed, RegionSealed
from weft.model.events import AttachmentClosed, AttachmentOpened, Event
from weft.model.ids import AttachmentId, Generation, RegionName
from weft.model.policy import ATTACHMENTS_MAX
from weft.model.region import Region


def existing_attachment(view: View, name: RegionName, attachment_id: AttachmentId) -> tuple[Region, Attachment]:
    """An open attachment of a region, or which of the two is missing."""
    region = existing_region(view, name)
    attachment = view.attachments.get(attachment_id)
    if attachment is None or attachment.region_id != region.region_id:
        raise AttachmentNotFound(
            f"region {name!r} has no open attachment {attachment_id}; it was closed, taken over or lapsed",
            region=name,
            attachment_id=attachment_id,
        )
    return region, attachment


def decide_open_attachment(view: View, command: OpenAttachment, moment: Moment) -> tuple[Event, ...]:
    """Reading needs a sealed region, writing an unsealed one with nobody else in it."""
    if command.mode is Mode.SHARED:
        existing_region(view, command.region)
        raise NotYet("shared attachments are not there yet; use exclusive, or seal and read")
    region = usable_region(view, command.region)
    if command.mode is Mode.EXCLUSIVE:
        closed = _make_way(view, region, command)
    else:
        closed = []
        if not region.sealed:
            raise RegionNotSealed(
                f"region {region.name!r} is not sealed; seal it before attaching it to {command.mode}",
                region=region.name,
            )
        if len(region.attachment_ids) >= ATTACHMENTS_MAX:
            raise AttachmentConflict(
                f"region {region.name!r} has {ATTACHMENTS_MAX} attachments, which is as many as it can have",
                region=region.name,
                holders=[],
            )
    opened = AttachmentOpened(
        attachment_id=moment.attachment_id(view.attachments),
        region_id=region.region_id,
        mode=command.mode,
        holder=command.holder,
        generation=Generation(region.generation + 1),
        at_ms=moment.now_ms,
    )
    return (*closed, opened)


def decide_close_attachment(view: View, command: CloseAttachment, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """An attachment that is open can be closed, once."""
    _, attachment = existing_attachment(view, command.region, command.attachment_id)
    return (AttachmentClosed(attachment_id=attachment.attachment_id, reason=command.reason),)


def apply_attachment_opened(draft: Draft, event: AttachmentOpened) -> None:
    """The region is attached, and its lenders are to know the generation."""
    attachment = Attachment(
        attachment_id=event.attachment_id,
        region_id=event.region_id,
        mode=event.mode,
        holder=event.holder,
        generation=event.generation,
        opened_at_ms=event.at_ms,
    )
    draft.attachments.put(event.attachment_id, attachment)
    region = draft.regions.get(event.region_id)
    assert region is not None, "an attachment is opened on a region that is there"
    _set_attachments(draft, region, (*region.attachment_ids, event.attachment_id), event.generation)


def apply_attachment_closed(draft: Draft, event: AttachmentClosed) -> None:
    """The region is no longer attached, and lenders refuse what was granted for it."""
    attachment = draft.attachments.get(event.attachment_id)
    assert attachment is not None, "only an open attachment is closed"
    region = draft.regions.get(attachment.region_id)
    assert region is not None, "an attachment belongs to a region that is there"
    draft.attachments.remove(event.attachment_id)
    remaining = tuple(other for other in region.attachment_ids if other != event.attachment_id)
    _set_attachments(draft, region, remaining, region.generation)


def _make_way(view: View, region: Region, command: OpenAttachment) -> list[Event]:
    """What an exclusive attachment closes first, or why it may not."""
    if region.sealed:
        raise RegionSealed(
            f"region {region.name!r} is sealed; attach it to read, or private to write to a copy", region=region.name
        )
    if region.attachment_ids and not command.takeover:
        open_ones = [view.attachments.get(attachment_id) for attachment_id in region.attachment_ids]
        names = [attachment.holder for attachment in open_ones if attachment is not None]
        raise AttachmentConflict(
            f"region {region.name!r} is attached by {', '.join(names)}; wait for it, or close it with takeover=True or "
            f"`weft region detach {region.name}`: what it did not flush is lost",
            region=region.name,
            holders=names,
        )
    return [
        AttachmentClosed(attachment_id=attachment_id, reason=Closing.TAKEN_OVER)
        for attachment_id in region.attachment_ids
    ]


def _set_attachments(
    draft: Draft, region: Region, attachment_ids: tuple[AttachmentId, ...], generation: Generation
) -> None:
    """Keep the floor in step with what is open. Attachments are listed as they opened, so the first is the oldest."""
    oldest = draft.attachments.get(attachment_ids[0]) if attachment_ids else None
    floor = oldest.generation if oldest is not None else Generation(generation + 1)
    changed = msgspec.structs.replace(region, attachment_ids=attachment_ids, generation=generation, floor=floor)
    draft.regions.put(region.region_id, changed)
    if generation != region.generation or floor != region.floor:
        touch_holders(draft, changed)
