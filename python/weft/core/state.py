"""State: a table a noun. A draft is an overlay of changed rows on it.

Readers see a `State`, which holds only what is merged. The writer decides commands against a `Draft`: the state plus
the events of the commands before them in the same batch. When the journal has the batch the draft is merged; when it
refuses, the draft is dropped, and nobody ever saw it. `apply` knows only drafts, live and in replay, so the two cannot
differ.

What is derivable is kept where deriving it on each read would cost: `region_ids` finds a region by name, and
`holdings` lists the regions a node holds in its present life. They are no part of the state's digest.
"""

from collections.abc import Iterator
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from weft.model.attachment import Attachment
from weft.model.canonical import NO_DIGEST, Digest, table_digest
from weft.model.cluster import Cluster
from weft.model.endpoint import Endpoint
from weft.model.ids import AttachmentId, ClusterId, Generation, NodeId, Position, RegionId, RegionName, Term
from weft.model.node import Node
from weft.model.object import ObjectHash, StoredObject
from weft.model.policy import LedgerPolicy
from weft.model.region import Region
from weft.model.scheduling import SchedulerConfig

Key = TypeVar("Key")
Row = TypeVar("Row")

_ABSENT: Final = object()


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says about itself: whose it is, and who writes it."""

    cluster_id: ClusterId
    policy: LedgerPolicy
    term: Term
    writer: str
    address: str = ""


class Marks(NamedTuple):
    """Where in the log a state stands. `sequence` counts every event ever applied."""

    position: Position = Position(0)
    log_digest: Digest = NO_DIGEST
    sequence: int = 0
    endpoints_generation: Generation = Generation(0)


class Rows(Generic[Key, Row]):
    """The merged rows of one table."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}

    def get(self, key: Key, /) -> Row | None:
        """The row, or None."""
        return self.rows.get(key)

    def __contains__(self, key: object, /) -> bool:
        return key in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self) -> Iterator[Key]:
        """Every key."""
        return iter(self.rows)

    def values(self) -> Iterator[Row]:
        """Every row."""
        return iter(self.rows.values())

    def items(self) -> Iterator[tuple[Key, Row]]:
        """Every key with its row."""
        return iter(self.rows.items())

    def take_in(self, overlay: "Overlay[Key, Row]") -> None:
        """Merge a draft's changes."""
        for key, row in overlay.changed.items():
            if row is _ABSENT:
                self.rows.pop(key, None)
            else:
                self.rows[key] = cast("Row", row)


class Overlay(Generic[Key, Row]):
    """A draft of one table: the merged rows, and what this batch changed."""

    # Every event that is applied comes through here several times, so lookups go to the merged rows themselves.
    __slots__ = ("_growth", "_rows", "changed")

    def __init__(self, base: Rows[Key, Row]) -> None:
        self._rows = base.rows
        self._growth = 0
        self.changed: dict[Key, Row | object] = {}

    def get(self, key: Key, /) -> Row | None:
        """The row as this draft has it, or None."""
        row = self.changed.get(key)
        if row is None:
            return self._rows.get(key)
        return None if row is _ABSENT else cast("Row", row)

    def __contains__(self, key: object, /) -> bool:
        row = self.changed.get(cast("Key", key))
        return key in self._rows if row is None else row is not _ABSENT

    def __len__(self) -> int:
        return len(self._rows) + self._growth

    def keys(self) -> Iterator[Key]:
        """Every key this draft has."""
        for key in self._rows:
            if self.changed.get(key) is not _ABSENT:
                yield key
        for key, row in self.changed.items():
            if row is not _ABSENT and key not in self._rows:
                yield key

    def values(self) -> Iterator[Row]:
        """Every row this draft has."""
        for key in self.keys():
            row = self.get(key)
            assert row is not None
            yield row

    def put(self, key: Key, row: Row) -> None:
        """Set a row."""
        changed = self.changed
        before = changed.get(key)
        if before is _ABSENT or (before is None and key not in self._rows):
            self._growth += 1
        changed[key] = row

    def remove(self, key: Key) -> None:
        """Take a row away; one that is not there stays away."""
        if key in self:
            self._growth -= 1
            self.changed[key] = _ABSENT

    def clear(self) -> None:
        """Take every row away."""
        for key in list(self.keys()):
            self.remove(key)


class State:
    """Everything that follows from the log, merged. Nothing but `merge` changes it."""

    __slots__ = (
        "attachments",
        "cluster",
        "endpoints",
        "holdings",
        "ledger",
        "marks",
        "nodes",
        "objects",
        "publishers",
        "region_ids",
        "regions",
        "scheduler",
    )

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.cluster: Cluster | None = None
        self.scheduler: SchedulerConfig | None = None
        self.nodes = Rows[NodeId, Node]()
        self.endpoints = Rows[NodeId, Endpoint]()
        self.regions = Rows[RegionId, Region]()
        self.region_ids = Rows[RegionName, RegionId]()
        self.attachments = Rows[AttachmentId, Attachment]()
        self.objects = Rows[ObjectHash, StoredObject]()
        self.holdings = Rows[NodeId, tuple[RegionId, ...]]()
        self.publishers = Rows[str, int]()
        self.marks = Marks()

    def merge(self, draft: "Draft") -> None:
        """Take a draft in. It was drafted on this state and nothing was merged since."""
        assert draft.base_marks == self.marks, "a draft is merged onto the state it was drafted on"
        self.ledger = draft.ledger
        self.cluster = draft.cluster
        self.scheduler = draft.scheduler
        self.nodes.take_in(draft.nodes)
        self.endpoints.take_in(draft.endpoints)
        self.regions.take_in(draft.regions)
        self.region_ids.take_in(draft.region_ids)
        self.attachments.take_in(draft.attachments)
        self.objects.take_in(draft.objects)
        self.holdings.take_in(draft.holdings)
        self.publishers.take_in(draft.publishers)
        self.marks = draft.marks


class Draft:
    """A state and the events of a batch that is not merged yet."""

    __slots__ = (
        "attachments",
        "base_marks",
        "cluster",
        "endpoints",
        "holdings",
        "ledger",
        "marks",
        "nodes",
        "objects",
        "publishers",
        "region_ids",
        "regions",
        "scheduler",
    )

    def __init__(self, state: State) -> None:
        self.base_marks = state.marks
        self.ledger = state.ledger
        self.cluster = state.cluster
        self.scheduler = state.scheduler
        self.nodes = Overlay(state.nodes)
        self.endpoints = Overlay(state.endpoints)
        self.regions = Overlay(state.regions)
        self.region_ids = Overlay(state.region_ids)
        self.attachments = Overlay(state.attachments)
        self.objects = Overlay(state.objects)
        self.holdings = Overlay(state.holdings)
        self.publishers = Overlay(state.publishers)
        self.marks = state.marks


View: TypeAlias = State | Draft
"""What decisions, plans and answers read."""


def state_digest(state: State) -> Digest:
    """The digest of everything the log implies, in order of key. Equal logs give equal digests, byte for byte."""
    singles: list[tuple[str, Any]] = [
        ("cluster", state.cluster),
        ("ledger", state.ledger),
        ("marks", state.marks),
        ("scheduler", state.scheduler),
    ]
    return table_digest(
        [
            ("attachments", sorted(state.attachments.items())),
            ("endpoints", sorted(state.endpoints.items())),
            ("nodes", sorted(state.nodes.items())),
            ("objects", sorted(state.objects.items())),
            ("publishers", sorted(state.publishers.items())),
            ("regions", sorted(state.regions.items())),
            ("singles", singles),
        ]
    )
