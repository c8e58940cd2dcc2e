"""The double's chain: blocks from height 1, a mempool, and a tail that moves up behind what is kept.

With a file it outlives its process: each block is a line, written before anybody is told of it.
"""

import asyncio
import json
from collections import deque
from enum import Enum, auto
from pathlib import Path
from typing import Any, TextIO

Blob = dict[str, Any]


class Fate(Enum):
    """What becomes of a submission."""

    INCLUDED = auto()
    """It is in the next block, and the height is the answer."""
    TIMES_OUT_AND_LANDS = auto()
    """The node says that it timed out; the next block but one has it."""
    TIMES_OUT_AND_IS_LOST = auto()
    """The node says that it timed out, and no block ever has it."""
    WRONG_SEQUENCE = auto()
    EVICTED = auto()
    REJECTED = auto()
    IN_MEMPOOL = auto()
    """The node says that it has it already, and the next block has it."""
    DEADLINE = auto()
    """The node's own deadline passed; the next block has it."""


class Transaction:
    """Blobs that go into one block together. `delay` counts the blocks before it."""

    def __init__(self, blobs: list[Blob], delay: int, future: "asyncio.Future[int] | None") -> None:
        self.blobs = blobs
        self.delay = delay
        self.future = future


class ChainDouble:
    """Blocks. The height of the head is the number of blocks ever made."""

    def __init__(self, *, keep_blocks: int | None = None, file: Path | None = None) -> None:
        self.keep_blocks = keep_blocks
        self.tail = 1
        self.head = 0
        self.fates: deque[Fate] = deque()
        self._blobs: dict[int, list[Blob]] = {}
        self._mempool: list[Transaction] = []
        self._file: TextIO | None = None
        if file is not None:
            self._open(file)
        if self.head == 0:
            self.produce()

    def blobs(self, height: int) -> list[Blob]:
        """What a block holds, of all namespaces."""
        return self._blobs.get(height, [])

    def submit(self, blobs: list[Blob], *, delay: int = 0) -> "asyncio.Future[int]":
        """Put blobs into a block to come. The future is its height."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._mempool.append(Transaction(blobs, delay, future))
        return future

    def produce(self) -> int:
        """Make a block of what waits; its height."""
        height = self.head + 1
        due = [one for one in self._mempool if one.delay <= 0]
        self._mempool = [one for one in self._mempool if one.delay > 0]
        for waiting in self._mempool:
            waiting.delay -= 1
        blobs = [blob for one in due for blob in one.blobs]
        # A block lists blobs by namespace, and within one in the order of its transactions.
        blobs.sort(key=lambda blob: str(blob["namespace"]))
        self._add(height, blobs)
        if self._file is not None:
            self._file.write(json.dumps({"height": height, "blobs": blobs}) + "\n")
            self._file.flush()
        for one in due:
            if one.future is not None and not one.future.done():
                one.future.set_result(height)
        if self.keep_blocks is not None:
            self.prune(self.head - self.keep_blocks + 1)
        return height

    def prune(self, tail: int) -> None:
        """Forget every block below a height."""
        for height in range(self.tail, min(tail, self.head)):
            self._blobs.pop(height, None)
        self.tail = max(self.tail, min(tail, self.head))

    def change(self, height: int, ordinal: int, blob: Blob) -> None:
        """Lie about a blob from now on."""
        self._blobs[height][ordinal] = blob

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _add(self, height: int, blobs: list[Blob]) -> None:
        self.head = height
        if blobs:
            self._blobs[height] = blobs

    def _open(self, file: Path) -> None:
        if file.exists():
            whole = 0
            with file.open("rb") as lines:
                for line in lines:
                    try:
                        block = json.loads(line)
                    except ValueError:
                        break
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    self._add(block["height"], block["blobs"])
            with file.open("r+b") as rest:
                rest.truncate(whole)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a")
