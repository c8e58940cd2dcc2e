"""Leases: how long an attachment lasts without its holder saying that it is still there.

A renewal is an observation, so it costs no event and a coordinator that restarts knows none of them; it gives every
open attachment a fresh lease. A lapse is an event: it fences the holder off.
"""

from collections.abc import Iterable

from weft.coordinator.ports import Clock
from weft.core.state import Draft
from weft.model.events import AttachmentClosed, AttachmentOpened, ClusterDestroyed, Event
from weft.model.ids import AttachmentId
from weft.model.policy import LEASE_MS


class Leases:
    """When each open attachment lapses."""

    def __init__(self, clock: Clock, lease_ms: int = LEASE_MS) -> None:
        self._clock = clock
        self._lease_ms = lease_ms
        self._ends_ms: dict[AttachmentId, int] = {}

    def renew(self, attachment_id: AttachmentId) -> int:
        """Begin a lease anew; returns its end as a time people read."""
        self._ends_ms[attachment_id] = self._clock.monotonic_ms() + self._lease_ms
        return self._clock.now_ms() + self._lease_ms

    def renew_all(self, attachment_ids: Iterable[AttachmentId]) -> None:
        """Begin every lease anew."""
        for attachment_id in attachment_ids:
            self.renew(attachment_id)

    def excuse(self, duration_ms: int) -> None:
        """This process could hear nobody for so long; no lease ends the sooner for it."""
        self._ends_ms = {attachment_id: end_ms + duration_ms for attachment_id, end_ms in self._ends_ms.items()}

    def lapsed(self) -> list[AttachmentId]:
        """The attachments whose lease has ended."""
        now_ms = self._clock.monotonic_ms()
        return [attachment_id for attachment_id, end_ms in self._ends_ms.items() if end_ms <= now_ms]

    def on_merged(self, draft: Draft, events: list[Event]) -> None:  # noqa: ARG002
        """Keep one lease for each open attachment."""
        for event in events:
            if isinstance(event, AttachmentOpened):
                self.renew(event.attachment_id)
            elif isinstance(event, AttachmentClosed):
                self._ends_ms.pop(event.attachment_id, None)
            elif isinstance(event, ClusterDestroyed):
                self._ends_ms.clear()
