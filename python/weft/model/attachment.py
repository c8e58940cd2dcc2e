"""An attachment: one process's mapping of a region, and what it may do there.

read        the region is sealed; any number
exclusive   one reader and writer, of a region that is not sealed
private     the region is sealed; writes stay in the mapping
shared      many coherent writers; not there yet
"""

from enum import IntFlag, StrEnum

import msgspec

from weft.model.ids import AttachmentId, Generation, RegionId


class Mode(StrEnum):
    """How a region is attached."""

    READ = "read"
    EXCLUSIVE = "exclusive"
    PRIVATE = "private"
    SHARED = "shared"


class Right(IntFlag):
    """What a grant allows at a lender."""

    READ = 1
    WRITE = 2


class Closing(StrEnum):
    """Why an attachment ended."""

    DETACHED = "detached"
    LAPSED = "lapsed"
    TAKEN_OVER = "taken_over"
    UNCONFIRMED = "unconfirmed"
    REGION_DELETED = "region_deleted"


class Attachment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An open attachment. A closed one is no row at all."""

    attachment_id: AttachmentId
    region_id: RegionId
    mode: Mode
    holder: str
    generation: Generation
    opened_at_ms: int


def rights_of(mode: Mode) -> Right:
    """What a mode needs at the lenders: only an exclusive attachment ever writes there."""
    return Right.READ | Right.WRITE if mode is Mode.EXCLUSIVE else Right.READ
