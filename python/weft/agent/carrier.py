"""Carrying out what holdings say: two lanes of work on the memory, side by side.

What if a step fails? A reservation that fails is reported and not tried again until the coordinator drops it. A fence
that fails is tried again after a pause, and until it stands the node does not claim the target that asked for it, so
nobody is let in on the strength of it.
"""

import asyncio
import contextlib

from weft.agent.holdings import Fence, Holdings, RaiseGeneration, Reserve
from weft.agent.memory import Memory
from weft.agent.outlet import Outlet
from weft.client.ports import AsyncClock
from weft.client.sizes import format_size
from weft.model.errors import ExtentLost, UnknownHandle, WeftError
from weft.model.policy import ERROR_LENGTH_MAX

# A fence waits for transfers under older grants to end; when they did not in its own deadline, this long until again.
_FENCE_AGAIN_S = 0.5


class Carrier:
    """The work of one life of a node. `changed` is set whenever there is something new to report."""

    def __init__(
        self, holdings: Holdings, memory: Memory, *, lend_bytes: int, clock: AsyncClock, outlet: Outlet
    ) -> None:
        self.changed = asyncio.Event()
        self._holdings = holdings
        self._memory = memory
        self._lend_bytes = lend_bytes
        self._clock = clock
        self._outlet = outlet
        self._fences_due = asyncio.Event()
        self._reservations_due = asyncio.Event()

    def wake(self) -> None:
        """The target has changed."""
        self._fences_due.set()
        self._reservations_due.set()

    async def keep_fences(self) -> None:
        """The short lane, for as long as the life lasts."""
        while True:
            step = self._holdings.next_fence()
            if step is None:
                self._fences_due.clear()
                await self._fences_due.wait()
                continue
            try:
                await self._carry(step)
            except WeftError as error:
                self._outlet.remark(f"{_described(step)} did not work yet: {error}")
                await self._clock.sleep(_FENCE_AGAIN_S)
                continue
            self.changed.set()
            # What was released may make room for what is to be reserved.
            self._reservations_due.set()

    async def keep_reservations(self) -> None:
        """The long lane, for as long as the life lasts."""
        while True:
            step = self._holdings.next_reservation()
            if step is None:
                self._reservations_due.clear()
                await self._reservations_due.wait()
                continue
            self._holdings.begin(step)
            refusal = await self._reserve(step)
            if refusal is None:
                self._holdings.reserved(step)
            else:
                self._holdings.refused(step, refusal)
                self._outlet.remark(f"cannot hold extent {step.extent.index} of {step.extent.region}: {refusal}")
            self.changed.set()
            self._fences_due.set()

    async def _reserve(self, step: Reserve) -> str | None:
        """Backs an extent; returns why not."""
        extent = step.extent
        free_bytes = self._lend_bytes - self._holdings.reserved_bytes
        if extent.size_bytes > free_bytes:
            # The coordinator may have planned by what an earlier life of this name lent, before it heard of this one.
            return (
                f"{format_size(extent.size_bytes)} is more than the {format_size(max(0, free_bytes))} "
                f"this node still lends of {format_size(self._lend_bytes)}"
            )
        try:
            await self._memory.reserve_extent(extent.region_id, extent.index, extent.size_bytes, extent.generation)
        except WeftError as error:
            return str(error)[:ERROR_LENGTH_MAX]
        return None

    async def _carry(self, step: Fence) -> None:
        if isinstance(step, RaiseGeneration):
            await self._memory.raise_generation(step.region_id, step.generation)
            self._holdings.raised(step)
            return
        # One that is gone already is what was wanted.
        with contextlib.suppress(ExtentLost, UnknownHandle):
            await self._memory.release_extent(step.region_id, step.index)
        self._holdings.released(step)


def _described(step: Fence) -> str:
    if isinstance(step, RaiseGeneration):
        return f"refusing grants of region {step.region_id} older than {step.generation}"
    return f"releasing extent {step.index} of region {step.region_id}"
