"""The state as a whole: where it stands, its digests, and whether rebuilding it gives the same."""

from typing import Annotated

import msgspec
from msgspec import Meta


class StateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a coordinator stands. Digests are SHA3-256 in hex; equal digests mean equal states, byte for byte."""

    cluster_id: str
    position: int
    log_digest: str
    state_digest: str
    events: int
    term: int
    writer: str
    writes: bool
    oldest: int
    snapshot: int
    counts: dict[str, int]


class RebuildBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to rebuild from: "journal", the names of layers separated by commas, or "layers" for all of them."""

    source: Annotated[str, Meta(min_length=1, max_length=256)] = msgspec.field(name="from", default="journal")


class RebuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a rebuild. `same` says that it is the living state, as it was at that position, byte for byte.

    A layer may be behind the log: `behind` batches are not on it yet, and the digests are those of where it ends.
    """

    source: str
    position: int
    log_digest: str
    state_digest: str
    events: int
    began_at: int
    behind: int
    blobs: int
    passed_over: int
    took_ms: int
    same: bool
