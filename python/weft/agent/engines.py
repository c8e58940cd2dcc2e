"""The engines of this machine: their handoff files, watched, and what a beat says of them."""

from collections.abc import Callable
from pathlib import Path

from weft.agent.cloud import CloudSettings
from weft.api.bodies.pools import PoolBody
from weft.api.doors.pools import pool_to_body
from weft.client.ports import AsyncClock
from weft.handoff import EnginePools, HandoffDirectory, HandoffFile, process_is_alive


class Engines:
    """Watches the handoff files of one node. `changed` is called when a beat would say something new of them.

    `remark` is told of a file that cannot be read.
    `read` says what the files say now; it is the directory of the settings unless something else is handed in.
    """

    def __init__(
        self,
        settings: CloudSettings,
        *,
        changed: Callable[[], None],
        clock: AsyncClock,
        remark: Callable[[str], None],
        is_alive: Callable[[int], bool] = process_is_alive,
        read: Callable[[], list[HandoffFile]] | None = None,
    ) -> None:
        def refuse(path: Path, why: str) -> None:
            remark(f"handoff file {path} is not read, so its engine is given no work: {why}")

        self._read = read or HandoffDirectory(settings.runtime_dir, refuse).look
        self._pools = EnginePools(settings.pool_ids)
        self._interval_s = settings.watch_interval_ms / 1_000
        self._changed = changed
        self._clock = clock
        self._is_alive = is_alive

    def look(self) -> None:
        """Look once."""
        if self._pools.see(self._read(), self._is_alive):
            self._changed()

    async def keep_looking(self) -> None:
        """For as long as the life lasts."""
        while True:
            self.look()
            await self._clock.sleep(self._interval_s)

    async def until_idle(self) -> None:
        """Return when no slot has work in it, as far as the files say."""
        while True:
            self.look()
            if self._pools.busy_slots == 0:
                return
            await self._clock.sleep(self._interval_s)

    def report(self, *, draining: bool) -> list[PoolBody]:
        """Every pool, for the next beat."""
        return [pool_to_body(pool) for pool in self._pools.snapshots(draining=draining)]
