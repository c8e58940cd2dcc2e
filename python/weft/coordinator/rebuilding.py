"""GET /state and POST /state/rebuild: where this coordinator stands, and whether its log says the same.

A rebuild happens beside the living state and changes nothing: it shows that what is kept is enough. Throwing the disk
away and rebuilding for real is done while no coordinator runs (`weft ledger rebuild`), because a coordinator without
its journal must not answer anybody.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from weft.api.bodies.state import RebuildReport, StateInfo
from weft.coordinator.layers import choose_layers
from weft.coordinator.ports import Clock
from weft.coordinator.snapshots import Snapshots
from weft.coordinator.writer import Writer
from weft.core.snapshot import capture
from weft.core.state import State, state_digest
from weft.ledger import Journal
from weft.ledger.layer import Layer
from weft.ledger.rebuild import Progress, Target, rebuild_from_journal, rebuild_from_layers
from weft.model.availability import Role
from weft.model.errors import JournalDamaged, Unavailable
from weft.receipts import PublicKey
from weft.serve import Call

JOURNAL: Final = "journal"


class Rebuilding:
    """Answers for the state as a whole."""

    def __init__(
        self, writer: Writer, journal: Journal, snapshots: Snapshots, clock: Clock, publisher: PublicKey
    ) -> None:
        self._writer = writer
        self._journal = journal
        self._snapshots = snapshots
        self._clock = clock
        self._publisher = publisher
        self._layers: Mapping[Role, Layer] = {}
        self._busy = False

    def know(self, layers: Mapping[Role, Layer]) -> None:
        """Learn which availability layers there are."""
        self._layers = layers

    async def show(self, call: Call) -> StateInfo:  # noqa: ARG002
        """GET /state."""
        held = capture(self._writer.state)
        ledger = held.ledger
        assert ledger is not None, "a log that is served was opened"
        return StateInfo(
            cluster_id=ledger.cluster_id.hex(),
            position=held.marks.position,
            log_digest=held.marks.log_digest.hex(),
            state_digest=(await asyncio.to_thread(state_digest, held)).hex(),
            events=held.marks.sequence,
            term=ledger.term,
            writer=ledger.address or ledger.writer,
            writes=self._writer.reigns,
            oldest=await self._journal.oldest(),
            snapshot=self._snapshots.newest,
            counts={
                "nodes": len(held.nodes),
                "endpoints": len(held.endpoints),
                "regions": len(held.regions),
                "attachments": len(held.attachments),
                "objects": len(held.objects),
            },
        )

    async def rebuild(self, call: Call) -> RebuildReport:
        """POST /state/rebuild."""
        source: str = call.body.source
        layers = self._chosen(source)
        if self._busy:
            raise Unavailable("the state is being rebuilt already; try again when that has ended", reason="busy")
        self._busy = True
        try:
            return await self._rebuild(source, layers)
        finally:
            self._busy = False

    async def _rebuild(self, source: str, layers: Sequence[Layer] | None) -> RebuildReport:
        living, began_ms, target = capture(self._writer.state), self._clock.monotonic_ms(), Target()
        assert living.ledger is not None, "a log that is served was opened"
        end, last = living.marks.position, Progress(source=source, position=living.marks.position, events=0)

        def tell(progress: Progress) -> None:
            nonlocal last
            last = progress

        if layers is None:
            base = await self._snapshots.oldest_good()
            await rebuild_from_journal(self._journal, target, tell, until=end, base=base)
        else:
            await rebuild_from_layers(
                layers, (self._publisher,), target, tell, cluster_id=living.ledger.cluster_id, until=end
            )
        marks = target.state.marks
        digest = await asyncio.to_thread(state_digest, target.state)
        return RebuildReport(
            source=source,
            position=marks.position,
            log_digest=marks.log_digest.hex(),
            state_digest=digest.hex(),
            events=marks.sequence,
            began_at=target.began_at,
            behind=end - marks.position,
            blobs=last.blobs,
            passed_over=last.passed_over,
            took_ms=self._clock.monotonic_ms() - began_ms,
            same=await self._is_same(target.state, living),
        )

    async def _is_same(self, rebuilt: State, living: State) -> bool:
        """Whether both are one log's. One that ends earlier is compared with the batch that stands there."""
        position = rebuilt.marks.position
        if position == living.marks.position:
            digests = await asyncio.to_thread(lambda: (state_digest(rebuilt), state_digest(living)))
            return rebuilt.marks.log_digest == living.marks.log_digest and digests[0] == digests[1]
        following = await self._journal.read(position, 1)
        if not following:
            raise JournalDamaged(f"the journal has no batch after position {position}", position=position + 1)
        return following[0].batch.parent == rebuilt.marks.log_digest

    def _chosen(self, source: str) -> list[Layer] | None:
        """The layers a caller named, None for the journal. Raises `InvalidField` and `NoLayer`."""
        if source == JOURNAL:
            return None
        return choose_layers(self._layers, source)
