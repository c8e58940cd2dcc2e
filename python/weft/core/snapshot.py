"""A snapshot: the whole state at a position, as a value. What comes of a log, without the log.

`capture` takes the rows as they are now, which costs a copy of each table's keys and may be done between two merges.
`describe` and `restore` may take their time: rows are frozen. A state that was restored is equal, byte for byte, to one
that lived through the log, and its digest is compared before anybody uses it.

The answers of named requests come along, because a caller may repeat a request that was answered before the snapshot.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from weft.core.state import Ledger, Marks, Rows, State, state_digest
from weft.model.attachment import Attachment
from weft.model.canonical import Digest, canonical_bytes
from weft.model.cluster import Cluster
from weft.model.endpoint import Endpoint
from weft.model.errors import SnapshotDamaged
from weft.model.events import Event
from weft.model.ids import AttachmentId, Generation, NodeId, Position, RegionId
from weft.model.node import Node
from weft.model.object import ObjectHash, StoredObject
from weft.model.region import Region
from weft.model.scheduling import SchedulerConfig

FORMAT: Final = 1
Key = TypeVar("Key")
Row = TypeVar("Row")


class Answered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a named request became."""

    cause: str
    position: Position
    events: tuple[Event, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at a position. Tables are rows in order of key, so equal states are equal snapshots."""

    format: int = FORMAT
    position: Position
    log_digest: Digest
    state_digest: Digest
    sequence: int
    endpoints_generation: Generation
    ledger: Ledger
    cluster: Cluster | None
    scheduler: SchedulerConfig | None
    nodes: tuple[tuple[NodeId, Node], ...]
    endpoints: tuple[tuple[NodeId, Endpoint], ...]
    regions: tuple[tuple[RegionId, Region], ...]
    attachments: tuple[tuple[AttachmentId, Attachment], ...]
    objects: tuple[tuple[ObjectHash, StoredObject], ...]
    holdings: tuple[tuple[NodeId, tuple[RegionId, ...]], ...]
    publishers: tuple[tuple[str, int], ...]
    answered: tuple[Answered, ...] = ()


_decoder: Final = msgspec.msgpack.Decoder(Snapshot)


def capture(state: State) -> State:
    """The state as it is now, held apart from what is merged after."""
    held = State()
    held.ledger, held.cluster, held.scheduler, held.marks = state.ledger, state.cluster, state.scheduler, state.marks
    _copy(state.nodes, held.nodes)
    _copy(state.endpoints, held.endpoints)
    _copy(state.regions, held.regions)
    _copy(state.region_ids, held.region_ids)
    _copy(state.attachments, held.attachments)
    _copy(state.objects, held.objects)
    _copy(state.holdings, held.holdings)
    _copy(state.publishers, held.publishers)
    return held


def describe(held: State, answered: Iterable[Answered] = ()) -> Snapshot:
    """A captured state as a snapshot. It has lived through at least the first batch."""
    assert held.ledger is not None, "a log that was opened has a ledger"
    return Snapshot(
        position=held.marks.position,
        log_digest=held.marks.log_digest,
        state_digest=state_digest(held),
        sequence=held.marks.sequence,
        endpoints_generation=held.marks.endpoints_generation,
        ledger=held.ledger,
        cluster=held.cluster,
        scheduler=held.scheduler,
        nodes=tuple(sorted(held.nodes.items())),
        endpoints=tuple(sorted(held.endpoints.items())),
        regions=tuple(sorted(held.regions.items())),
        attachments=tuple(sorted(held.attachments.items())),
        objects=tuple(sorted(held.objects.items())),
        holdings=tuple(sorted(held.holdings.items())),
        publishers=tuple(sorted(held.publishers.items())),
        answered=tuple(answered),
    )


def restore(snapshot: Snapshot) -> State:
    """The state a snapshot describes. Raises `SnapshotDamaged` when it does not have the digest it says."""
    state = State()
    state.ledger, state.cluster, state.scheduler = snapshot.ledger, snapshot.cluster, snapshot.scheduler
    state.marks = Marks(snapshot.position, snapshot.log_digest, snapshot.sequence, snapshot.endpoints_generation)
    state.nodes.rows.update(snapshot.nodes)
    state.endpoints.rows.update(snapshot.endpoints)
    state.regions.rows.update(snapshot.regions)
    state.region_ids.rows.update((region.name, region_id) for region_id, region in snapshot.regions)
    state.attachments.rows.update(snapshot.attachments)
    state.objects.rows.update(snapshot.objects)
    state.holdings.rows.update(snapshot.holdings)
    state.publishers.rows.update(snapshot.publishers)
    if state_digest(state) != snapshot.state_digest:
        raise SnapshotDamaged(
            f"the snapshot at position {snapshot.position} does not have the digest it was made with",
            position=snapshot.position,
        )
    return state


def snapshot_bytes(snapshot: Snapshot) -> bytes:
    """A snapshot's canonical bytes."""
    return canonical_bytes(snapshot)


def parse_snapshot(body: bytes, position: Position) -> Snapshot:
    """A snapshot from its bytes. Raises `SnapshotDamaged` when they are not one of this format at this position."""
    try:
        snapshot = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotDamaged(f"the snapshot at position {position} cannot be read", position=position) from error
    if snapshot.format != FORMAT or snapshot.position != position:
        raise SnapshotDamaged(
            f"the snapshot at position {position} says it is of format {snapshot.format} at {snapshot.position}; "
            f"this version reads format {FORMAT}",
            position=position,
        )
    return snapshot


def _copy(source: Rows[Key, Row], target: Rows[Key, Row]) -> None:
    target.rows.update(source.rows)
