"""The router: puts a blob where the board says, and does not say that it is kept before that is true for good.

What a fallback took is on the pending list, synced, before `store` returns. What if the list cannot be written? Then
the blob is not acknowledged, though a layer has it: an untracked blob is one that recovery would forget. What if the
answer of a put is lost? The layer is scanned from where it was last read, and the blob is put again only when it is not
there. What if the layer changes while a put hangs? The put is given up, the blob goes to the other layer; should both
have it in the end, commitments are the same and nobody sees it twice.

A blob is read by its commitment from whichever layer has it, and what a layer gives back is hashed before it is passed
on. So what was put to a fallback can be read during the outage, after it, and when the fallback is gone.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from weft.ledger.board import Board, Clock, Routing
from weft.ledger.layer import Commitment, Cursor, Receipt, commit_to
from weft.ledger.meter import MeteredLayer
from weft.ledger.pending import PendingList
from weft.model.availability import FALLBACKS, Role
from weft.model.errors import (
    BlobDamaged,
    BlobMissing,
    BlobPruned,
    BlobTooLarge,
    LayerFailed,
    LayerRefused,
    LayerUnknown,
    NoLayer,
    PendingFailed,
    WeftError,
)
from weft.model.ids import Position
from weft.model.policy import ALIASES_MAX, LAYER_SCAN_BLOBS_MAX, PUT_AGAIN_MS, PUT_MS_MAX, REQUEST_MS_MAX
from weft.telemetry import Log

_FOREVER_S: Final = float("inf")

Choose = Callable[[Routing], Role | None]
"""Which layer a blob should go to, by a snapshot; None: to none for now."""


class Placed(NamedTuple):
    """Where a blob is kept."""

    role: Role
    receipt: Receipt


class Router:
    """The one way to a layer, for puts and gets."""

    def __init__(
        self,
        layers: Mapping[Role, MeteredLayer],
        board: Board,
        pending: PendingList,
        clock: Clock,
        hurry: Callable[[Role], None],
        log: Log,
    ) -> None:
        self._layers = layers
        self._board = board
        self._pending = pending
        self._clock = clock
        self._hurry = hurry
        self._log = log
        self._told: dict[Role, str] = {}
        self._aliases: OrderedDict[str, Role] = OrderedDict()
        self._cursors: dict[Role, Cursor] = {}
        self._tracking: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        """Puts to a fallback that have begun and are not on the pending list yet."""

    @property
    def blob_bytes_max(self) -> int:
        """The largest blob every layer takes, so that whatever one of them keeps can be brought to the others."""
        return min((layer.blob_bytes_max for layer in self._layers.values()), default=0)

    def has(self, role: Role) -> bool:
        """Whether a layer is configured."""
        return role in self._layers

    async def store(
        self, blob: bytes, choose: Choose, *, position: Position | None = None, within_ms: int | None = None
    ) -> Placed:
        """Have a layer keep a blob, trying until one does or the time is over. With no time given, until it is done.

        Raises the last error met: `LayerUnknown` when a layer may have kept it, `LayerRefused` at once, and `NoLayer`
        when there was none to ask. `BlobTooLarge` is raised at once in any case: waiting makes no blob smaller.
        """
        loop = asyncio.get_running_loop()
        ends_s = _FOREVER_S if within_ms is None else loop.time() + within_ms / 1_000
        last: LayerFailed = NoLayer("no availability layer can take a write now; try again")
        tried = False
        while True:
            left_s = ends_s - loop.time()
            if left_s <= 0:
                raise last
            role = choose(self._board.now)
            if role is None:
                await self._board.change(None if left_s == _FOREVER_S else left_s)
                continue
            if tried:
                self._layers[role].counts.retry_count += 1
            tried = True
            try:
                receipt = await self._put_while(role, blob, partial(_is_chosen, choose, role), position, ends_s)
                self._told.pop(role, None)
                return Placed(role, receipt)
            except LayerFailed as error:
                self._tell(role, error, position)
                is_final = isinstance(error, LayerRefused | PendingFailed) if within_ms is not None else False
                if is_final or isinstance(error, BlobTooLarge):
                    raise
                last = error
            if choose(self._board.now) is not role:
                continue
            if role is not Role.PRIMARY:
                self._hurry(role)
            again_s = min(ends_s, loop.time() + PUT_AGAIN_MS / 1_000)
            # A snapshot that sends the blob to the same layer, as that of the hurried check may, is no reason to hurry.
            while (left_s := again_s - loop.time()) > 0 and choose(self._board.now) is role:
                await self._board.change(left_s)

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified, from any layer that has it.

        Raises `BlobMissing` when every layer says that it has not; else what stood in the way of the most promising.
        """
        failure: LayerFailed | None = None
        for role in await self._order_of(commitment):
            try:
                blob = await self.get_from(role, commitment)
            except BlobMissing:
                continue
            except LayerFailed as error:
                failure = failure or error
                continue
            self._remember(commitment, role)
            return blob
        if failure is not None:
            raise failure
        if not self._layers:
            raise NoLayer("no availability layer is configured; set USE_MOCK_DA=true or DA_RPC_URL")
        raise BlobMissing(f"no layer holds a blob with commitment {commitment}", commitment=commitment)

    async def get_from(self, role: Role, commitment: Commitment) -> bytes:
        """A blob from one layer, verified and within a deadline."""
        layer = self._layers.get(role)
        if layer is None:
            raise NoLayer(f"no {role.value} layer is configured")
        try:
            async with asyncio.timeout(REQUEST_MS_MAX / 1_000):
                blob = await layer.get(commitment)
        except TimeoutError as error:
            raise LayerFailed(f"{layer.name} did not answer in {REQUEST_MS_MAX} ms", layer=layer.name) from error
        if commit_to(blob) != commitment:
            raise BlobDamaged(
                f"{layer.name} gave other bytes than those of {commitment}", layer=layer.name, commitment=commitment
            )
        return blob

    async def put_to(self, role: Role, blob: bytes, position: Position | None = None) -> Receipt:
        """Put a blob to one layer, once, and have it on the pending list when that layer is a fallback."""
        commitment = commit_to(blob)
        if role is Role.PRIMARY:
            receipt = await self._put(role, blob, commitment)
            self._remember(commitment, role)
            return receipt
        self.in_flight += 1
        handed_over = False
        try:
            receipt = await self._put(role, blob, commitment)
            tracking = asyncio.ensure_future(self._land(role, commitment, len(blob), position))
            handed_over = True
            self._tracking.add(tracking)
            tracking.add_done_callback(self._tracking.discard)
            # Whoever waits may go away; the blob is in the layer, so it belongs on the list in any case.
            await asyncio.shield(tracking)
        finally:
            if not handed_over:
                self.in_flight -= 1
        self._remember(commitment, role)
        return receipt

    async def track(self, role: Role, commitment: Commitment, size_bytes: int, position: Position | None) -> None:
        """A fallback has a blob: put it on the pending list."""
        try:
            await self._pending.add(commitment, role, self._clock.now_ms(), size_bytes, position)
        finally:
            self._board.count_pending(self._pending.count, self._pending.stuck_count)

    async def scan_on(self, role: Role, see: Callable[[Commitment, int, bytes], None]) -> None:
        """Read a layer on from where it was read last, to its end. Raises `LayerFailed`; what was seen was seen."""
        layer, name = self._layers[role], f"cursor {role.value}"
        cursor = self._cursors.get(role)
        if cursor is None:
            cursor = Cursor(await self._pending.noted(name) or "")
        while True:
            try:
                found = await layer.scan(cursor, LAYER_SCAN_BLOBS_MAX)
            except BlobPruned as error:
                if (after := error.facts.get("after")) in (None, cursor):
                    raise
                # What is gone cannot be looked for there; what came after it can.
                self._log.warning("a layer has let go of what was not read yet", role=role.value, reason=error.message)
                cursor = Cursor(str(after))
                continue
            for kept in found.kept:
                see(kept.commitment, kept.height, kept.blob)
            if found.after != cursor:
                cursor = self._cursors[role] = found.after
                await self._pending.note(name, cursor)
            if found.is_end:
                return

    def forget_cursors(self) -> None:
        """Have the next scans begin at the beginning."""
        self._cursors = dict.fromkeys(self._layers, Cursor(""))

    async def put_home(self, blob: bytes, holds: Callable[[Routing], bool]) -> Receipt:
        """Put a blob to the primary, for as long as something holds. `LayerUnknown` when it was given up."""
        return await self._put_while(Role.PRIMARY, blob, holds, None, _FOREVER_S)

    async def _put_while(
        self, role: Role, blob: bytes, holds: Callable[[Routing], bool], position: Position | None, ends_s: float
    ) -> Receipt:
        """Put a blob once, for as long as something holds and there is time."""
        loop = asyncio.get_running_loop()
        ends_s = min(ends_s, loop.time() + PUT_MS_MAX / 1_000)
        putting = asyncio.ensure_future(self.put_to(role, blob, position))
        try:
            while not putting.done() and (left_s := ends_s - loop.time()) > 0 and holds(self._board.now):
                await self._board.change(left_s, putting)
        finally:
            # Whoever asked may be cancelled itself; then so is what it asked for.
            putting.cancel()
        await asyncio.wait({putting})
        if putting.cancelled():
            name = self._layers[role].name
            raise LayerUnknown(f"{name} had not answered when it was given up", layer=name)
        return putting.result()

    async def _put(self, role: Role, blob: bytes, commitment: Commitment) -> Receipt:
        """Put, and find out what became of it when the layer does not say."""
        layer = self._layers[role]
        try:
            receipt = await layer.put(blob)
        except LayerUnknown:
            heights: list[int] = []

            def see(kept: Commitment, height: int, _: bytes) -> None:
                if kept == commitment:
                    heights.append(height)

            await self.scan_on(role, see)
            if not heights:
                raise
            receipt = Receipt(commitment, heights[0])
        if receipt.commitment != commitment:
            raise BlobDamaged(
                f"{layer.name} keeps {receipt.commitment} where {commitment} was put",
                layer=layer.name,
                commitment=commitment,
            )
        return receipt

    async def _land(self, role: Role, commitment: Commitment, size_bytes: int, position: Position | None) -> None:
        try:
            await self.track(role, commitment, size_bytes, position)
        finally:
            self.in_flight -= 1

    async def _order_of(self, commitment: Commitment) -> list[Role]:
        """The layers in the order in which they are worth asking: those known to have it, then those that are well."""
        known: list[Role] = []
        if (alias := self._aliases.get(commitment)) is not None:
            known.append(alias)
        known += [role for role in await self._pending.sources(commitment) if role in self._layers]
        now = self._board.now
        others = sorted(self._layers, key=lambda role: (not now.is_healthy(role), role in FALLBACKS))
        return list(dict.fromkeys([*(role for role in known if now.is_healthy(role)), *others]))

    def _tell(self, role: Role, error: LayerFailed, position: Position | None) -> None:
        """Log the first failure, and each that is of another kind than the one before it."""
        if self._told.get(role) == error.code:
            return
        self._told[role] = error.code
        self._log.warning(
            "a layer did not take a blob", role=role.value, position=position, code=error.code, reason=error.message
        )

    def _remember(self, commitment: str, role: Role) -> None:
        self._aliases[commitment] = role
        if len(self._aliases) > ALIASES_MAX:
            self._aliases.popitem(last=False)


def _is_chosen(choose: Choose, role: Role, routing: Routing) -> bool:
    return choose(routing) is role


def choose_active(routing: Routing) -> Role | None:
    """Where a blob goes that stands in no order with others."""
    return routing.active


def spell_failure(error: WeftError) -> str:
    """What a failure is, for a list people read."""
    return f"{error.code}: {error.message}"
