"""Machines that keep blobs, simulated: the real witness, and the double of a Celestia node, on disks of their own.

A witness's disk is a real file, so that what a kill leaves of a record is met by the code that opens it. A write takes
a while; a crash in that while leaves all of it, some of it, or nothing, and nobody was told of it. What was told of
stays: `kept` is the list of what was synced, held against the file whenever it is opened again.
"""

import asyncio
import base64
import contextlib
import io
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from weft.client.ports import Request
from weft.ledger.layer import commit_to
from weft.ledger.layers.ports import Answer
from weft.receipts import SigningKey
from weft.serve import Gate
from weft.telemetry import Log
from weft.testing.celestia import ChainDouble, Fate, NodeDouble, mint_token
from weft.testing.clock import ProcessClock
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network
from weft.testing.process import Process
from weft.witness.log import BlobLog
from weft.witness.service import Witness
from weft.witness.shelf import Shelf

T = TypeVar("T")

_SYNC_S: Final = 0.002
_BLOCK_MS: Final = 400
"""Blocks come faster than on any chain, and still slower than anything else here."""
_FATES: Final = (
    Fate.TIMES_OUT_AND_LANDS,
    Fate.TIMES_OUT_AND_IS_LOST,
    Fate.WRONG_SEQUENCE,
    Fate.EVICTED,
    Fate.IN_MEMPOOL,
    Fate.DEADLINE,
)
"""What becomes of submissions when they are in for trouble. Refused for good is none of it: nobody is there to help."""
_CHAIN_SECRET: Final = b"the simulated node's own"


class LayerHttp:
    """One process's way to keepers: the layers' `Http`. A URL's host is a place of the network."""

    def __init__(self, network: Network, source: Process) -> None:
        self._network, self._source = network, source

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_ms: int,
        answer_bytes_max: int,  # noqa: ARG002 — what comes back here was never so long.
    ) -> Answer:
        """The whole answer, within the time."""
        place, slash, rest = url.removeprefix("http://").partition("/")
        lower = {name.lower(): value for name, value in headers.items()}
        request = Request(method=method, target=slash + rest or "/", headers=lower, body=body)
        response = await self._network.send(self._source, place, request, timeout_ms / 1_000)
        return Answer(response.status, response.headers, response.body)

    async def close(self) -> None:
        """Nothing is held."""


class WitnessMachine:
    """A machine with a real witness on it; a validator when it is given a key."""

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        note: Callable[[str], None],
        *,
        name: str,
        directory: Path,
        seed: str,
        key: SigningKey | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.process: Process | None = None
        self.kept: set[str] = set()
        self.sync_s = _SYNC_S
        self.errors: list[str] = []
        self.torn_count = 0
        self._chance = random.Random(f"{seed} {name} disk")
        self._clock = ProcessClock(loop, started_s=100.0)
        self._directory, self._seed = directory, seed
        self._loop, self._network, self._note = loop, network, note
        self._shelf: _SlowShelf | None = None
        self._lives = 0

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self.name}"

    def start(self) -> None:
        """Start the witness on what its disk has."""
        assert self.process is None, "it runs already"
        self._lives += 1
        process = Process(self._loop, self.name, seed=f"{self._seed} {self.name} {self._lives}", clock=self._clock)
        blobs = BlobLog(self._directory)
        self.torn_count += blobs.torn_bytes > 0
        if lost := [commitment for commitment in sorted(self.kept) if blobs.found(commitment) is None]:
            self.errors.append(f"{self.name} answered for {len(lost)} blobs that its disk has not: {lost[0]}")
        self.process = process
        self._shelf = process.context.run(_SlowShelf, blobs, self)
        self._shelf.note_kept()
        log = Log(io.StringIO(), self._clock.now_ms)
        witness = process.context.run(
            lambda: Witness(self._shelf, Gate(()), process, log, key=self.key, name=self.name)  # type: ignore[arg-type]
        )
        self._network.serve(self.name, process, witness.app)

    def kill(self, *, silently: bool = False) -> None:
        """End it; what it was writing may be there, in part or whole."""
        process, self.process = self.process, None
        shelf, self._shelf = self._shelf, None
        if process is None or shelf is None:
            return
        self._network.hush(self.name)
        process.kill(silently=silently)
        shelf.crash(self._chance)
        self._note(f"{self.name} killed")

    def harm(self, chance: random.Random) -> None:
        """A slow disk, up to slower than anybody waits."""
        self.sync_s = chance.choice([0.2, 1.0, 4.0, 20.0])

    def mend(self) -> None:
        """A good disk."""
        self.sync_s = _SYNC_S

    def keeps(self, commitment: str) -> bool:
        """Whether its disk has a blob, synced, whether it runs or not."""
        return commitment in self.kept

    def blobs(self) -> dict[str, bytes]:
        """Everything on its disk, while it runs."""
        assert self._shelf is not None, "it does not run"
        return {commitment: self._shelf.log.read(commitment) for commitment in sorted(self.kept)}


class _SlowShelf(Shelf):
    """The real shelf on a disk that takes its time. Nothing of a write is there before its time is over."""

    def __init__(self, log: BlobLog, machine: WitnessMachine) -> None:
        super().__init__(log)
        self._machine = machine
        self._at_disk = asyncio.Lock()
        self._under_way: Callable[[], object] | None = None

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._at_disk:
            self._under_way = work
            await asyncio.sleep(self._machine.sync_s)
            self._under_way = None
            result = work()
            self.note_kept()
            return result

    def note_kept(self) -> None:
        """What the log lists is synced, whether or not whoever put it still waits for the answer."""
        kept = self._machine.kept
        if self.log.count > len(kept):
            entries, _ = self.log.after(0, self.log.count + 1)
            kept.update(entry.commitment for entry in entries)

    def crash(self, chance: random.Random) -> None:
        """The process ends here. What it was writing is on the disk up to some byte."""
        before = self.log.size_bytes
        if self._under_way is not None:
            with contextlib.suppress(Exception):
                self._under_way()
            after = self.log.size_bytes
            if after > before:
                os.truncate(self.log.path, chance.choice([before, chance.randint(before, after), after]))
        self.log.close()


class ChainMachine:
    """A machine with the double of a Celestia node. The chain is the network's, and outlives the node."""

    def __init__(self, loop: SimulatedLoop, network: Network, note: Callable[[str], None], *, seed: str) -> None:
        self.name = "celestia"
        self.process: Process | None = None
        self.chain = ChainDouble()
        self.token = mint_token(_CHAIN_SECRET, "public", "read", "write")
        self.errors: list[str] = []
        self._clock = ProcessClock(loop, started_s=100.0)
        self._loop, self._network, self._note, self._seed = loop, network, note, seed
        self._node = NodeDouble(self.chain, _CHAIN_SECRET)
        self._found: dict[str, bytes] = {}
        self._read_to = 0

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self.name}"

    def start(self) -> None:
        """Start the node."""
        assert self.process is None, "it runs already"
        self.process = process = Process(self._loop, self.name, seed=f"{self._seed} chain", clock=self._clock)
        node = NodeDouble(self.chain, _CHAIN_SECRET)
        node.latency_ms, node.status, node.is_syncing = self._node.latency_ms, self._node.status, self._node.is_syncing
        self._node = node
        process.spawn(node.produce_blocks(_BLOCK_MS), "blocks")
        self._network.serve(self.name, process, node)

    def kill(self, *, silently: bool = False) -> None:
        """End the node."""
        process, self.process = self.process, None
        if process is not None:
            self._network.hush(self.name)
            process.kill(silently=silently)
            self._note(f"{self.name} killed")

    def harm(self, chance: random.Random) -> None:
        """A node that is slow, busy, behind, or times out on what lands all the same, or never does."""
        node, drawn = self._node, chance.choice(["slow", "busy", "behind", "fates", "fates"])
        if drawn == "slow":
            node.latency_ms = chance.choice([500, 3_000, 20_000])
        elif drawn == "busy":
            node.status = chance.choice([429, 503])
        elif drawn == "behind":
            node.is_syncing = True
        else:
            self.chain.fates.extend(chance.choice(_FATES) for _ in range(chance.randint(1, 6)))

    def mend(self) -> None:
        """A node in good health."""
        self._node.latency_ms, self._node.status, self._node.is_syncing = 0, None, False
        self.chain.fates.clear()

    def keeps(self, commitment: str) -> bool:
        """Whether a block has a blob."""
        self._read_on()
        return commitment in self._found

    def blobs(self) -> dict[str, bytes]:
        """Everything in its blocks."""
        self._read_on()
        return self._found

    def _read_on(self) -> None:
        """Look at the blocks made since the last look. Nothing is ever taken out of one."""
        while self._read_to < self.chain.head:
            self._read_to += 1
            for blob in self.chain.blobs(self._read_to):
                data = base64.b64decode(blob["data"])
                self._found[commit_to(data)] = data
