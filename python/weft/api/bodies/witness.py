"""What validators and the emergency server say."""

from typing import Annotated

from msgspec import Meta, Struct

from weft.api.bodies.fields import Count, whole
from weft.model.policy import LAYER_LIST_MAX

CommitmentText = Annotated[str, Meta(pattern=whole("[0-9a-f]{64}", "64 lower-case hex digits"))]
KeyText = Annotated[str, Meta(pattern=whole("[0-9a-f]{64}", "64 lower-case hex digits"))]
SignatureText = Annotated[str, Meta(pattern=whole("[0-9a-f]{128}", "128 lower-case hex digits"))]
ValidatorText = Annotated[
    str, Meta(pattern=whole("[A-Za-z0-9_.-]{1,128}", "1 to 128 letters, digits, dots, dashes or underscores"))
]


class BlobsQuery(Struct, frozen=True, kw_only=True, rename={"after": "from"}):
    """Which stretch of the list: what was kept after the height `from`."""

    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=LAYER_LIST_MAX)] = LAYER_LIST_MAX


class BlobLine(Struct, frozen=True, kw_only=True):
    """One blob that is kept."""

    commitment: CommitmentText
    height: Count
    size_bytes: Count


class BlobList(Struct, frozen=True, kw_only=True):
    """A stretch of the list, in the order of heights. `next` is the `from` that goes on behind it."""

    blobs: list[BlobLine]
    next: Count
    is_end: bool


class BlobKept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A blob is on the disk. A validator says so under its name, with its signature over what it says."""

    commitment: CommitmentText
    height: Count
    validator_id: ValidatorText | None = None
    signature_hex: SignatureText | None = None


class WitnessHealth(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a put would work now, and who this is."""

    status: str
    blob_count: Count
    size_bytes: Count
    height: Count
    damaged_count: Count = 0
    validator_id: ValidatorText | None = None
    public_key: KeyText | None = None
