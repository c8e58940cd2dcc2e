"""The log as handlers see it: awaited, one thread on the file, and one sync for all who wait at once."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from weft.model.errors import Busy, LayerUnknown, ShuttingDown, WeftError
from weft.model.policy import WITNESS_WAITING_MAX
from weft.witness.log import BlobLog, Draft, Entry

T = TypeVar("T")


class Shelf:
    """Keeps blobs in a log. Whoever puts one waits until it is on the disk, together with all who came meanwhile."""

    def __init__(self, log: BlobLog) -> None:
        self.log = log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blobs")
        self._waiting: list[tuple[Draft, asyncio.Future[Entry]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def put(self, draft: Draft) -> Entry:
        """Keep a blob. Raises `Busy` when too many wait already, and what `BlobLog.append` raises."""
        if self._closed:
            raise ShuttingDown("this server is stopping")
        if len(self._waiting) >= WITNESS_WAITING_MAX:
            raise Busy("too many blobs wait for the disk; try again")
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="blobs")
        return await future

    async def get(self, commitment: str) -> bytes:
        """A blob, verified."""
        return await self._run(lambda: self.log.read(commitment))

    def after(self, height: int, count_max: int) -> tuple[Sequence[Entry], bool]:
        """What is kept, from a height on."""
        return self.log.after(height, count_max)

    async def close(self) -> None:
        """Finish what is being written, refuse the rest, close the file."""
        self._closed = True
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()
        self.log.close()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                drafts = [draft for draft, _ in batch]
                try:
                    entries = await self._run(partial(self.log.append, drafts))
                except WeftError as error:
                    _fail(batch, error)
                except Exception as error:
                    _fail(batch, LayerUnknown(f"the log met a bug: {type(error).__name__}"))
                    raise
                else:
                    for (_, future), entry in zip(batch, entries, strict=True):
                        if not future.done():
                            future.set_result(entry)
        finally:
            self._writing = None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _fail(batch: Sequence[tuple[Draft, "asyncio.Future[Entry]"]], error: WeftError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(type(error)(error.message, **error.facts))
