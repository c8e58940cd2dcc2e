"""Keeping objects: the errands the coordinator sends, and looking over what is here again and again.

What if a copy cannot be had from a source? The next source is asked; when none is left the coordinator hears why, and
it is tried again after a pause for as long as the plan names it. What if the bytes are not the object? Nothing is kept,
and the coordinator hears whose copy to doubt. What if the object came by another way in the meantime? It is here, which
was the point.

Scrubbing reads every object at a bounded rate, round after round. What it finds wrong is taken away and reported, and
healed like any other loss. What if a copy cannot be read just now, because this machine is short of something? Then
nothing is known and nothing is said of it: the next round looks again, and who was asked to look tries again later.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from weft.agent.errands import Errands, Finding, WantedCopy, Word
from weft.agent.outlet import Outlet
from weft.agent.stock import Pace, Stock, no_pace
from weft.api.bodies.beat import FindingReport, StoreReport, StoreTarget
from weft.client.ports import AsyncClock
from weft.model.errors import ObjectCorrupt, ObjectNotFound, StoreFailed, StoreFull, StoreUnreadable, WeftError
from weft.model.ids import Generation, NodeId
from weft.model.object import ObjectHash
from weft.model.policy import COPY_AGAIN_MS, ERROR_LENGTH_MAX, SCRUB_BYTES_PER_S, SCRUB_EVERY_MS

Address = tuple[str, int]


class Keeper:
    """The work on the objects of one life of a node. `changed` is called whenever there is something new to report."""

    def __init__(
        self,
        stock: Stock,
        *,
        changed: Callable[[], None],
        address_of: Callable[[NodeId], Address | None],
        clock: AsyncClock,
        outlet: Outlet,
        scrub_bytes_per_s: int = SCRUB_BYTES_PER_S,
        scrub_every_ms: int = SCRUB_EVERY_MS,
    ) -> None:
        self.errands = Errands()
        self.stock = stock
        self._changed = changed
        self._address_of = address_of
        self._clock = clock
        self._outlet = outlet
        self._scrub_bytes_per_s = scrub_bytes_per_s
        self._scrub_every_s = scrub_every_ms / 1_000
        self._due = asyncio.Event()
        self._checking = False
        stock.listen(self._find)

    def report(self, word: Word) -> StoreReport:
        """What a beat says of objects."""
        return StoreReport(
            plan=self.errands.generation,
            used_bytes=self.stock.used_bytes,
            free_bytes=self.stock.free_bytes,
            inventory=word.inventory,
            complete=word.complete,
            findings=[
                FindingReport(
                    hash=finding.object_hash,
                    state=finding.state,
                    error=finding.error,
                    doubted=list(finding.doubted),
                )
                for finding in word.findings
            ],
        )

    def heed(self, word: Word, target: StoreTarget | None) -> None:
        """A beat that said this was answered, with this to do. A coordinator that keeps no objects asks nothing."""
        self.errands.heard(word)
        if target is None:
            return
        if target.inventory != self.errands.inventory:
            self.errands.take_inventory(target.inventory, self.stock.hashes())
            self._changed()
        copies = [
            WantedCopy(
                object_hash=ObjectHash(copy.hash),
                size_bytes=copy.size_bytes,
                sources=tuple(NodeId(node_id) for node_id in copy.sources),
            )
            for copy in target.copies
        ]
        drops, checks = ([ObjectHash(one) for one in hashes] for hashes in (target.drops, target.checks))
        if self.errands.aim(Generation(target.plan), copies, drops, checks):
            self._due.set()

    async def keep_errands(self) -> None:
        """Carry out what the plan says, for as long as the life lasts."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._due.clear()
                # One moment for both: what falls due between them would be neither begun nor waited for.
                now_s = self._clock.now_s()
                self._begin(running, now_s)
                await self._until_due(running, now_s)
                ended = {task for task in running if task.done()}
                running -= ended
                for task in ended:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def keep_scrubbing(self) -> None:
        """Look over everything, again and again, for as long as the life lasts."""
        while True:
            for object_hash in self.stock.hashes():
                if self.stock.size_of(object_hash) is None:
                    continue
                finding = await self._look_at(object_hash, self._pace)
                if finding is None:
                    # Short of something: whoever goes on at once is short of it for the next object too.
                    await self._clock.sleep(COPY_AGAIN_MS / 1_000)
                elif finding.state != "held":
                    self._outlet.remark(f"the copy of object {object_hash} is {finding.state}: {finding.error}")
                    self._find(finding)
            await self._clock.sleep(self._scrub_every_s)

    def _begin(self, running: set["asyncio.Task[None]"], now_s: float) -> None:
        """Begin everything that may be under way at once: one errand on what is here, and a few copies."""
        errands = self.errands
        while (object_hash := errands.next_drop()) is not None:
            errands.begin(object_hash)
            running.add(asyncio.create_task(self._drop(object_hash)))
        # One at a time: looking again is never urgent, and reads as much as a copy does.
        if not self._checking and (object_hash := errands.next_check(now_s)) is not None:
            self._checking = True
            errands.begin(object_hash)
            running.add(asyncio.create_task(self._check(object_hash)))
        while (copy := errands.next_copy(now_s)) is not None:
            errands.begin_copy(copy)
            running.add(asyncio.create_task(self._copy(copy)))

    async def _until_due(self, running: set["asyncio.Task[None]"], now_s: float) -> None:
        again_s = self.errands.next_again_s(now_s)
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._due.wait())}
        if again_s is not None:
            waits.add(asyncio.ensure_future(self._clock.sleep(max(0.0, again_s - self._clock.now_s()))))
        try:
            await asyncio.wait({*waits, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _drop(self, object_hash: ObjectHash) -> None:
        try:
            await self.stock.drop(object_hash)
        except WeftError as error:
            self._outlet.remark(f"object {object_hash} could not be let go of: {error}")
        self._end(Finding(object_hash=object_hash, state="dropped"))

    async def _check(self, object_hash: ObjectHash) -> None:
        finding = await self._look_at(object_hash)
        self._checking = False
        if finding is None:
            self.errands.put_off(object_hash, self._clock.now_s() + COPY_AGAIN_MS / 1_000)
        else:
            self._end(finding)

    async def _copy(self, copy: WantedCopy) -> None:
        """Fetch an object from the first source that gives it."""
        reasons: list[str] = []
        doubted: list[NodeId] = []
        for source in copy.sources:
            address = self._address_of(source)
            if address is None:
                reasons.append(f"{source}: nobody said where it is")
                continue
            try:
                await self.stock.fetch(copy, source, *address)
            except StoreUnreadable as error:
                # The source's copy, or one that is here already; there may be a source that can read its own.
                reasons.append(f"{source}: {error}")
            except (StoreFull, StoreFailed) as error:
                # Another source would not help.
                reasons.append(str(error))
                break
            except WeftError as error:
                reasons.append(f"{source}: {error}")
                if isinstance(error, ObjectCorrupt | ObjectNotFound):
                    doubted.append(source)
            else:
                self._end(Finding(object_hash=copy.object_hash, state="held", doubted=tuple(doubted)))
                return
        error_text = "; ".join(reasons)[:ERROR_LENGTH_MAX] or "no node was named that holds it"
        failed = Finding(object_hash=copy.object_hash, state="failed", error=error_text, doubted=tuple(doubted))
        self.errands.fail(failed, self._clock.now_s() + COPY_AGAIN_MS / 1_000)
        self._outlet.remark(f"object {copy.object_hash} could not be copied here yet: {error_text}")
        self._changed()

    async def _look_at(self, object_hash: ObjectHash, pace: Pace = no_pace) -> Finding | None:
        """What is true of a copy that is said to be here; None when this machine cannot tell at the moment."""
        try:
            await self.stock.check(object_hash, pace)
        except ObjectNotFound as error:
            return Finding(object_hash=object_hash, state="missing", error=error.message[:ERROR_LENGTH_MAX])
        except ObjectCorrupt as error:
            return Finding(object_hash=object_hash, state="corrupt", error=error.message[:ERROR_LENGTH_MAX])
        except WeftError as error:
            self._outlet.remark(f"object {object_hash} could not be looked at: {error}")
            return None
        return Finding(object_hash=object_hash, state="held")

    async def _pace(self, size_bytes: int) -> None:
        await self._clock.sleep(size_bytes / self._scrub_bytes_per_s)

    def _end(self, finding: Finding) -> None:
        self.errands.end(finding)
        self._changed()

    def _find(self, finding: Finding) -> None:
        self.errands.find(finding)
        self._changed()
