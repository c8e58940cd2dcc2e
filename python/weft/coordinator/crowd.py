"""The crowd: how long a batch waits for those who came together before.

Callers who were answered by one batch send their next commands together, a moment later. A batch that is begun by the
first of them holds that one alone, and all the others wait for its sync before they wait for their own: 32 callers fill
batches of one and of thirty-one in turn, and every command is synced for twice. So a batch waits for as many as came
together lately, and no longer than theirs took, which is the most they would lose by not being waited for.

What if they do not come back? The wait is bounded by `GATHER_MS_MAX`, and the expectation falls by a quarter with each
batch. Who comes alone and came alone before is never waited with.
"""

import asyncio

from weft.model.policy import GATHER_MS_MAX


class Crowd:
    """How many came together lately, and how long writing them took."""

    def __init__(self, *, gather_ms_max: int = GATHER_MS_MAX) -> None:
        self._gather_s_max = gather_ms_max / 1_000
        self._expected_count = 0
        self._write_s = 0.0
        self._gathered: asyncio.Future[None] | None = None

    async def gather(self, here_count: int) -> None:
        """Wait until as many are here as are expected, for as long as it pays."""
        wait_s = min(self._write_s, self._gather_s_max)
        if here_count >= self._expected_count or wait_s <= 0.0:
            return
        self._gathered = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._gathered}, timeout=wait_s)
        finally:
            self._gathered = None

    def see(self, here_count: int) -> None:
        """Somebody came, and so many are here now."""
        if here_count >= self._expected_count:
            self.disperse()

    def note(self, together_count: int, write_s: float) -> None:
        """A batch of so many was written, in so long."""
        self._expected_count = max(together_count, self._expected_count * 3 // 4)
        self._write_s = write_s

    def disperse(self) -> None:
        """Wait no longer."""
        if self._gathered is not None and not self._gathered.done():
            self._gathered.set_result(None)
