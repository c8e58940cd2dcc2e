"""What clients asked and were told, and whether what is kept agrees: nothing acknowledged lost, nothing applied twice.

A request that was never answered, or only refused, may have happened or not, once; one that was acknowledged happened.
Everything is compared by the request's id, which is the cause of its event in the log.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.ledger.envelope import Kind, unwrap
from weft.ledger.layer import Cursor, Layer
from weft.model.batch import SealedBatch, unseal
from weft.model.ids import NodeId, Position
from weft.receipts import PublicKey

_SCAN_BLOBS: int = 100


class Asked(msgspec.Struct, kw_only=True):
    """One request: when it was first sent, when its last answer came, and whether that was a success."""

    request_id: str
    name: str
    invoked_s: float
    returned_s: float | None = None
    acknowledged: bool = False
    tries: int = 0


class History:
    """What all clients asked, as they saw it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def invoke(self, request_id: str, name: str, now_s: float) -> Asked:
        """A client begins to ask."""
        asked = Asked(request_id=request_id, name=name, invoked_s=now_s)
        with self._lock:
            self.asked.append(asked)
        return asked

    @property
    def acknowledged(self) -> list[Asked]:
        """What happened, by its answer."""
        return [asked for asked in self.asked if asked.acknowledged]

    def longest_s(self) -> float:
        """The longest that a request took until it was acknowledged."""
        return max((asked.returned_s - asked.invoked_s for asked in self.acknowledged if asked.returned_s), default=0.0)

    def write(self, path: Path) -> None:
        """Write it down, a request a line."""
        path.write_text("".join(json.dumps(msgspec.to_builtins(asked)) + "\n" for asked in self.asked))

    def compare(self, batches: Mapping[Position, bytes], place: str) -> tuple[list[str], str]:
        """What does not agree with a whole log, and the digest of the state it leads to."""
        state, positions = State(), Counter[str]()
        wrong: list[str] = []
        for position in sorted(batches):
            sealed = unseal(batches[position], position)
            if position != state.marks.position + 1:
                return [f"{place} has nothing at position {state.marks.position + 1}"], ""
            state.merge(follow(state, sealed))
            positions.update({entry.cause.partition("~")[0] for entry in sealed.batch.entries})
        for asked in self.asked:
            count = positions[asked.request_id]
            if count > 1:
                wrong.append(f"{asked.request_id} was applied {count} times, by {place}")
            if asked.acknowledged and (count == 0 or state.nodes.get(NodeId(asked.name)) is None):
                wrong.append(f"{asked.request_id} was acknowledged and is not in {place}")
        return wrong, state_digest(state).hex()


async def batches_of(layer: Layer, key: PublicKey) -> dict[Position, bytes]:
    """Every batch a layer lists, by its position. Raises `AssertionError` when it has two for one position."""
    found: dict[Position, bytes] = {}
    after = Cursor("")
    while True:
        scan = await layer.scan(after, _SCAN_BLOBS)
        for kept in scan.kept:
            envelope = unwrap(kept.blob, [key])
            if envelope.kind is Kind.BATCH:
                first = found.setdefault(Position(envelope.sequence), envelope.payload)
                assert first == envelope.payload, f"{layer.name} has two batches for position {envelope.sequence}"
        after = scan.after
        if scan.is_end:
            return found


def by_position(run: Iterable[SealedBatch]) -> dict[Position, bytes]:
    """Batches of a journal, by their positions."""
    return {sealed.batch.position: sealed.body for sealed in run}
