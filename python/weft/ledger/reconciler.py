"""The reconciler: brings to the primary what fallbacks kept for it, in order, and takes nothing off the list unread.

A blob comes off the pending list when its bytes were read back from the primary and are the same. It is looked up
there first: a put whose answer was lost, a crash between putting and noting, two reconcilers at once all end with one
copy. It is put to the primary itself and never through the router, which might send it to a fallback again.

One pass goes over the list in batches. A blob of the log that fails holds back those behind it, so that the primary
holds the log in order; a blob somebody posted holds back nobody. A batch that is not the journal's at its position is
of a log that was given up, and stuck at once: beside ours it would make two logs of one. A pass that leaves something
behind is repeated with a growing pause, for as long as the primary is recovering. A blob that failed more often than it
may is stuck: it is passed over, shown, and tried again when a person says so. There is no way off the list but onto the
primary.

What if the primary dies in the middle? The board says so and the pass ends; what was settled stays settled. What if a
write to a fallback is under way when the list runs empty? It is waited for, so that nothing is left on a list nobody
looks at.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from weft.ledger.board import Board, Clock, Routing
from weft.ledger.layer import Commitment, commit_to
from weft.ledger.pending import PendingList
from weft.ledger.router import Router, spell_failure
from weft.model.availability import PendingBlob, ReconcilePolicy, Role, Standing
from weft.model.errors import (
    BlobDamaged,
    BlobForeign,
    BlobMissing,
    BlobTooLarge,
    JournalFailed,
    LayerFailed,
    PendingFailed,
    PrimaryUnhealthy,
    ReconciliationFailed,
)
from weft.model.ids import Position
from weft.model.policy import (
    PUT_AGAIN_MS,
    RECONCILE_BACKOFF_MS_MAX,
    RECONCILE_ERRORS_MAX,
    RECONCILE_PARALLEL_MAX,
    RECONCILE_SETTLE_MS,
)
from weft.telemetry import Log, Metrics

_LOG: Final = "log"
"""The reason of a blob that is of this cluster, and of another log than the journal's."""
_PRIMARY_IS_IN: Final = (Standing.HEALTHY, Standing.RECOVERING)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass did. `left` counts what is still pending and not stuck."""

    processed: int
    reconciled: int
    failed: int
    left: int
    stuck: int
    batch_count: int
    duration_ms: int
    errors: tuple[str, ...]

    @property
    def success(self) -> bool:
        """Whether the primary holds everything now."""
        return not (self.failed or self.left or self.stuck)


class _Pass:
    """What a pass has come to so far."""

    def __init__(self) -> None:
        self.processed = self.reconciled = self.failed = self.batch_count = 0
        self.errors: list[str] = []
        self.is_log_held = False
        """A blob of the log failed, and those behind it wait."""


class Reconciler:
    """Brings pending blobs to the primary."""

    def __init__(
        self,
        router: Router,
        board: Board,
        pending: PendingList,
        policy: ReconcilePolicy,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        check: Callable[[], Awaitable[None]],
        recall: Callable[[Position, Commitment | None], Awaitable[Sequence[bytes]]],
        is_of_log: Callable[[PendingBlob], Awaitable[bool]],
    ) -> None:
        """`check` looks at the primary and tells the board, before its turn; `recall` has a blob of a batch from the
        journal, or all that it goes in now where none is named; `is_of_log` says whether a pending one is the
        journal's."""
        self._is_of_log = is_of_log
        self._check = check
        self._recall = recall
        self._router = router
        self._board = board
        self._pending = pending
        self._policy = policy
        self._clock = clock
        self._log = log
        self._one_at_a_time = asyncio.Lock()
        self.settled_count = 0
        """How many blobs it brought home in this process's life; who waits for a turn counts by it."""
        self.blob_ms = 0
        """How long one took of those that came home last; 0 before the first."""
        self._blobs = metrics.counter("weft_reconciled_blobs_total", "Pending blobs tried, by outcome.", ("outcome",))

    @property
    def is_bringing(self) -> bool:
        """Whether what is pending is on its way home, or will be without anybody's doing."""
        return self._policy.auto or self._one_at_a_time.locked()

    async def run(self) -> None:
        """Reconcile whenever there is something to be done and a primary to do it with, until cancelled."""
        while True:
            await self._board.until(_has_work)
            pause_ms = self._policy.retry_delay_ms
            while _has_work(self._board.now):
                settled_count = self.settled_count
                if self._policy.auto and await self._try():
                    break
                if self.settled_count > settled_count:
                    pause_ms = self._policy.retry_delay_ms
                # A snapshot in between is no reason to hurry; leaving recovery is one to stop.
                await self._rest(pause_ms)
                pause_ms = min(2 * pause_ms, RECONCILE_BACKOFF_MS_MAX)

    async def reconcile(self) -> Report:
        """Try everything once, as a person asked, stuck blobs among it.

        Raises `PrimaryUnhealthy` while the primary is out, and `ReconciliationFailed` when not even the first could be
        looked at. With one under way already, it waits for that one and then looks at what it left.
        """
        standing = self._board.now.standing
        if standing not in _PRIMARY_IS_IN:
            raise PrimaryUnhealthy(
                f"nothing can be reconciled while the primary layer is out ({standing.value}); it is checked again by "
                "itself",
                standing=standing.value,
            )
        async with self._one_at_a_time:
            await self._pending.free_stuck()
            return await self._pass()

    async def _try(self) -> bool:
        async with self._one_at_a_time:
            try:
                report = await self._pass()
            except ReconciliationFailed as error:
                self._log.warning("reconciling could not begin", code=error.code, reason=error.message)
                return False
        return report.success

    async def _pass(self) -> Report:
        began_ms = self._clock.monotonic_ms()
        done = _Pass()
        try:
            await self._walk(done)
            while self._router.in_flight and self._may_go_on():
                await self._board.change(PUT_AGAIN_MS / 1_000)
                await self._walk(done)
        except PendingFailed as error:
            report = self._report(done, began_ms, error)
            if not done.processed:
                raise ReconciliationFailed(
                    f"reconciling ended before the first blob: {error.message}", report=msgspec.to_builtins(report)
                ) from error
            return report
        report = self._report(done, began_ms)
        if report.success:
            self._board.reconcile()
        self._log.info("reconciled" if report.success else "reconciled in part", **msgspec.to_builtins(report))
        return report

    async def _walk(self, done: _Pass) -> None:
        """Go over the list once, from its beginning."""
        after = 0
        while self._may_go_on():
            batch = await self._pending.read(after, self._policy.batch_size, is_stuck=False)
            if not batch:
                return
            after = batch[-1].sequence
            ready = [blob for blob in batch if blob.position is None or not done.is_log_held]
            if ready:
                done.batch_count += 1
                await self._bring_batch(ready, done)

    async def _bring_batch(self, batch: Sequence[PendingBlob], done: _Pass) -> None:
        at_once = RECONCILE_PARALLEL_MAX if self._policy.parallel else 1
        brought: list[str] = []
        since_ms = self._clock.monotonic_ms()
        try:
            for start in range(0, len(batch), at_once):
                if not self._may_go_on():
                    break
                part = [
                    blob for blob in batch[start : start + at_once] if blob.position is None or not done.is_log_held
                ]
                outcomes = await asyncio.gather(*(self._bring(blob) for blob in part))
                for blob, error in zip(part, outcomes, strict=True):
                    done.processed += 1
                    if error is None:
                        brought.append(blob.commitment)
                    else:
                        await self._note_failure(blob, error, done)
                # With a primary that takes seconds for each, whoever waits for a turn sees every one of them.
                if self._clock.monotonic_ms() - since_ms >= RECONCILE_SETTLE_MS:
                    some, brought = brought, []
                    await self._settle(some, since_ms, done)
                    since_ms = self._clock.monotonic_ms()
        finally:
            # Also when the pass is ended in the middle: what the primary holds need not be brought again.
            await self._settle(brought, since_ms, done)

    async def _settle(self, brought: Sequence[str], since_ms: int, done: _Pass) -> None:
        """Take off the list what the primary holds, and say so."""
        if brought:
            await self._pending.settle(brought)
            done.reconciled += len(brought)
            self.settled_count += len(brought)
            self.blob_ms = (self._clock.monotonic_ms() - since_ms) // len(brought)
            self._blobs.add(len(brought), "reconciled")
        self._board.count_pending(self._pending.count, self._pending.stuck_count)

    async def _bring(self, blob: PendingBlob) -> LayerFailed | None:
        """Have the primary hold a blob, and see that it does. Says what stood in the way."""
        commitment = Commitment(blob.commitment)
        try:
            if not await self._is_of_log(blob):
                return BlobForeign(
                    f"blob {commitment} holds another batch than the journal at position {blob.position}", reason=_LOG
                )
            if await self._primary_has(commitment):
                return None
            try:
                await self._bring_one(await self._read(commitment, blob))
            except BlobTooLarge:
                if blob.position is None or not await self._bring_parts(blob.position, commitment):
                    raise
        except LayerFailed as error:
            return error
        except JournalFailed as error:
            return LayerFailed(f"the journal could not be asked for position {blob.position}: {error.message}")
        return None

    async def _bring_one(self, content: bytes) -> None:
        commitment = commit_to(content)
        await self._router.put_home(content, _is_in)
        if await self._router.get_from(Role.PRIMARY, commitment) != content:
            raise BlobDamaged(f"the primary gives other bytes for {commitment}", commitment=commitment)

    async def _bring_parts(self, position: Position, commitment: Commitment) -> bool:
        """Bring a batch that the primary does not take as it is, cut smaller. Says False where that changes nothing."""
        parts = await self._recall(position, None)
        if not parts or commitment in map(commit_to, parts):
            return False
        for part in parts:
            if not await self._primary_has(commit_to(part)):
                await self._bring_one(part)
        return True

    async def _primary_has(self, commitment: Commitment) -> bool:
        try:
            await self._router.get_from(Role.PRIMARY, commitment)
        except (BlobMissing, BlobDamaged):
            return False
        return True

    async def _read(self, commitment: Commitment, blob: PendingBlob) -> bytes:
        """The bytes: a batch's from the journal, which outlives fallbacks; else from the fallback, or any layer."""
        if blob.position is not None:
            for content in await self._recall(blob.position, commitment):
                return content
        try:
            return await self._router.get_from(blob.source, commitment)
        except LayerFailed:
            return await self._router.get(commitment)

    async def _note_failure(self, blob: PendingBlob, error: LayerFailed, done: _Pass) -> None:
        done.failed += 1
        if len(done.errors) < RECONCILE_ERRORS_MAX:
            done.errors.append(f"{blob.commitment}: {spell_failure(error)}")
        # A primary that is gone fails every blob. That is no blob's fault, and none may be stuck for it.
        await self._check()
        if not self._may_go_on():
            return
        is_foreign = isinstance(error, BlobForeign) and error.facts.get("reason") == _LOG
        is_stuck = is_foreign or blob.retry_count + 1 > self._policy.max_retries
        await self._pending.note_failure(blob.commitment, spell_failure(error), is_stuck=is_stuck)
        done.is_log_held = done.is_log_held or (blob.position is not None and not is_stuck)
        self._blobs.add(1, "stuck" if is_stuck else "failed")
        if is_stuck:
            self._log.error("a pending blob is stuck", commitment=blob.commitment, reason=error.message)

    def _may_go_on(self) -> bool:
        return _is_in(self._board.now)

    def _report(self, done: _Pass, began_ms: int, error: LayerFailed | None = None) -> Report:
        stuck = self._pending.stuck_count
        return Report(
            processed=done.processed,
            reconciled=done.reconciled,
            failed=done.failed,
            left=self._pending.count - stuck,
            stuck=stuck,
            batch_count=done.batch_count,
            duration_ms=self._clock.monotonic_ms() - began_ms,
            errors=(*done.errors, *(() if error is None else (spell_failure(error),))),
        )

    async def _rest(self, pause_ms: int) -> None:
        """Pause, and no longer than there is something to be done."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + pause_ms / 1_000
        while (left_s := ends_s - loop.time()) > 0 and _has_work(self._board.now):
            await self._board.change(left_s)


def _is_in(now: Routing) -> bool:
    """Whether the primary may be used."""
    return now.standing in _PRIMARY_IS_IN


def _has_work(now: Routing) -> bool:
    """The primary is recovering; or it is well, and a write that outlived an outage left something on the list."""
    return now.standing is Standing.RECOVERING or (now.standing is Standing.HEALTHY and now.pending > now.stuck)
