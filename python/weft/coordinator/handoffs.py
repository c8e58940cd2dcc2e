"""The handoff watcher of the home profile: engines that come up beside the coordinator are bound as they do.

In the cloud profile this is the nodes' business, each on its own machine, and the coordinator looks at no file.
"""

import asyncio
from collections.abc import Callable

from weft.coordinator.bindings import Bindings
from weft.handoff import EnginePools, HandoffDirectory


class HandoffWatch:
    """Looks at a directory now and then, and has bound what is ready in it."""

    def __init__(
        self, directory: HandoffDirectory, bindings: Bindings, is_alive: Callable[[int], bool], interval_ms: int
    ) -> None:
        self._directory = directory
        self._bindings = bindings
        self._is_alive = is_alive
        self._interval_s = interval_ms / 1_000
        self._pools = EnginePools()

    def look(self) -> None:
        """Look once. Where nothing has changed nothing happens."""
        if self._pools.see(self._directory.look(), self._is_alive):
            self._bindings.see(None, self._pools.snapshots())

    async def keep_looking(self) -> None:
        """For as long as the process runs."""
        while True:
            self.look()
            await asyncio.sleep(self._interval_s)
