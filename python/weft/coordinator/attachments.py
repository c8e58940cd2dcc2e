"""Attachments over HTTP: opening one, keeping it, closing it.

Opening is three steps. The event is committed, with a generation that fences off what came before; every lender that
lives says it knows that generation; only then is the grant handed out. What if a lender does not say so in time? The
attachment is closed again and the answer names the lender. What if this process dies in between? The attachment is
open without a holder, and lapses with its lease, or the holder repeats its request under the same id and gets it.
"""

import contextlib

from weft.api.bodies.region import AttachmentDetached, AttachmentOpenedBody, GrantRenewed
from weft.api.doors.cluster import endpoint_to_body
from weft.coordinator.beats import Beats
from weft.coordinator.causes import cause_of
from weft.coordinator.changes import Changes
from weft.coordinator.leases import Leases
from weft.coordinator.regions import show_region
from weft.coordinator.writer import Writer, internal_cause
from weft.core.attachment import existing_attachment
from weft.core.region import living_holders
from weft.model.attachment import Attachment, Closing, Mode, rights_of
from weft.model.commands import CloseAttachment, OpenAttachment
from weft.model.errors import LenderSilent, Rejected
from weft.model.events import AttachmentOpened
from weft.model.grant import Grant, mint
from weft.model.ids import AttachmentId, NodeId, RegionName, parse_attachment_id, parse_region_name
from weft.model.policy import ATTACH_MS_MAX
from weft.model.region import Region
from weft.serve import Call


class Attachments:
    """Answers for attachments. `key` is what grants are sealed with."""

    def __init__(
        self,
        writer: Writer,
        beats: Beats,
        leases: Leases,
        changes: Changes,
        key: bytes,
        attach_ms_max: int = ATTACH_MS_MAX,
    ) -> None:
        self._writer = writer
        self._beats = beats
        self._leases = leases
        self._changes = changes
        self._key = key
        self._attach_ms_max = attach_ms_max

    async def open(self, call: Call) -> AttachmentOpenedBody:
        """POST /regions/{name}/attachments."""
        name, body = parse_region_name(call.path["name"]), call.body
        command = OpenAttachment(region=name, mode=Mode(body.mode), holder=body.holder, takeover=body.takeover)
        answer = await self._writer.submit(command, cause_of(call))
        opened = answer.events[-1]
        assert isinstance(opened, AttachmentOpened), "opening an attachment ends with its event"
        await self._await_lenders(name, opened.attachment_id)
        state = self._writer.state
        region, attachment = existing_attachment(state, name, opened.attachment_id)
        grant, expires_at_ms = self._grant(region, attachment)
        lenders = {replica.node_id for replica in region.layout.lenders()}
        found = (state.endpoints.get(node_id) for node_id in sorted(lenders))
        return AttachmentOpenedBody(
            attachment_id=attachment.attachment_id,
            mode=attachment.mode.value,
            holder=attachment.holder,
            generation=attachment.generation,
            grant=grant,
            expires_at_ms=expires_at_ms,
            region=show_region(state, region),
            endpoints={endpoint.node_id: endpoint_to_body(endpoint) for endpoint in found if endpoint is not None},
        )

    async def renew(self, call: Call) -> GrantRenewed:
        """POST /regions/{name}/attachments/{attachment_id}/renew."""
        region, attachment = existing_attachment(self._writer.state, *_names(call))
        grant, expires_at_ms = self._grant(region, attachment)
        return GrantRenewed(grant=grant, expires_at_ms=expires_at_ms)

    async def close(self, call: Call) -> AttachmentDetached:
        """DELETE /regions/{name}/attachments/{attachment_id}."""
        name, attachment_id = _names(call)
        command = CloseAttachment(region=name, attachment_id=attachment_id, reason=Closing.DETACHED)
        await self._writer.submit(command, cause_of(call))
        return AttachmentDetached(attachment_id=attachment_id)

    def _grant(self, region: Region, attachment: Attachment) -> tuple[bytes, int]:
        """A grant for another lease, and the lease."""
        ledger = self._writer.state.ledger
        assert ledger is not None, "an attachment is opened in a ledger"
        expires_at_ms = self._leases.renew(attachment.attachment_id)
        grant = Grant(
            cluster_id=ledger.cluster_id,
            region_id=region.region_id,
            generation=attachment.generation,
            mode=attachment.mode,
            rights=rights_of(attachment.mode),
            holder=attachment.holder,
            expires_at_ms=expires_at_ms,
        )
        return mint(grant, self._key), expires_at_ms

    async def _await_lenders(self, name: RegionName, attachment_id: AttachmentId) -> None:
        """Wait until every lender that lives knows the generation, or take the attachment back and say who does not."""
        if await self._changes.until(lambda: not self._missing(name, attachment_id), self._attach_ms_max):
            return
        missing = self._missing(name, attachment_id)
        command = CloseAttachment(region=name, attachment_id=attachment_id, reason=Closing.UNCONFIRMED)
        # Somebody may have closed it first, by takeover or with the region; the lenders' silence is still the news.
        with contextlib.suppress(Rejected):
            await self._writer.submit(command, internal_cause("unconfirmed"))
        raise LenderSilent(
            f"{', '.join(missing)} did not confirm the attachment in {self._attach_ms_max} ms; try again, "
            "or remove the node if it is gone for good",
            nodes=list(missing),
        )

    def _missing(self, name: RegionName, attachment_id: AttachmentId) -> list[NodeId]:
        """The lenders that live and have not said that they know this attachment. None once it is closed again.

        A lender's target was touched when the attachment opened, and may have moved on since for other reasons; it is
        asked for whatever its target is now, which it is told in the same answer.
        """
        state = self._writer.state
        attachment = state.attachments.get(attachment_id)
        region = state.regions.get(attachment.region_id) if attachment is not None else None
        if region is None or region.name != name:
            return []
        missing = []
        for node_id in living_holders(state, region, self._beats.silent()):
            node = state.nodes.get(node_id)
            if node is not None and not self._beats.holds(node_id, node.generation):
                missing.append(node_id)
        return missing


def _names(call: Call) -> tuple[RegionName, AttachmentId]:
    return parse_region_name(call.path["name"]), parse_attachment_id(call.path["attachment_id"])
