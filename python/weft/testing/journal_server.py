"""A journal on a machine of its own, which several simulated coordinators reach over the simulated network.

It stands for the servers of NATS or PostgreSQL as a coordinator sees them: what was appended is synced before anybody
hears of it or reads it, a question or its answer may be lost, and whoever was not answered knows nothing. The machine
has a disk that forgets what was not synced, and power of its own. Its pulse is in memory, as theirs is.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from weft.ledger.chain import StoredBatch, verify_run
from weft.model.batch import SealedBatch
from weft.model.canonical import NO_DIGEST, Digest
from weft.model.errors import Closed, JournalFailed, PositionTaken, WeftError
from weft.model.ids import Position
from weft.model.policy import BATCH_BYTES_MAX
from weft.testing.clock import ProcessClock
from weft.testing.disk import Disk
from weft.testing.loop import SimulatedLoop
from weft.testing.network import Network
from weft.testing.process import Process

JOURNAL: Final = "journal"
"""What the network calls the machine."""
_ANSWER_S_MAX: Final = 4.0
"""How long a coordinator waits for it: less than a request may take."""
_LOOK_S: Final = 0.1
"""How often somebody who waits for news finds out whether there is any."""


class JournalServer:
    """The machine. Its disk outlives its process."""

    def __init__(
        self, loop: SimulatedLoop, network: Network, note: Callable[[str], None], *, seed: str, name: str = JOURNAL
    ) -> None:
        self.name = name
        self.disk = Disk(random.Random(f"{seed} journal disk"))
        self.process: Process | None = None
        self.errors: list[str] = []
        self.sign = b""
        self.note_kept = b""
        """What was left beside the log. Synced at once: nobody hears that it is kept before it is."""
        self._clock = ProcessClock(loop, started_s=50.0)
        self._loop, self._network, self._note, self._seed = loop, network, note, seed
        self._appending = asyncio.Lock()

    def start(self) -> None:
        """Start it on what its disk has."""
        assert self.process is None, "it runs already"
        self.process = Process(self._loop, self.name, seed=f"{self._seed} journal", clock=self._clock)
        self._appending = asyncio.Lock()
        self.sign = b""

    def kill(self, *, silently: bool = False) -> None:
        """End it as SIGKILL does; with `silently`, as a power cut, which takes what was not synced."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill(silently=silently)
        lost = self.disk.crash() if silently else 0
        self.disk.synced_count = len(self.disk.rows)
        self._note(f"{self.name} killed, {lost} batches lost")

    def harm(self, chance: random.Random) -> None:
        """A disk that is slow, or fails appends and leaves open whether they happened."""
        if chance.random() < 0.5:
            self.disk.sync_s = chance.choice([0.05, 0.5, 2.0, 8.0])
        else:
            self.disk.refuses.chance = chance.choice([0.2, 0.5, 1.0])

    def mend(self) -> None:
        """A good disk."""
        self.disk.sync_s = 0.001
        self.disk.refuses.mend()

    def rows(self) -> list[StoredBatch]:
        """What is kept and synced."""
        return self.disk.rows[: self.disk.synced_count]

    async def ask(self, source: Process, work: Callable[[], Awaitable[Any]]) -> Any:
        """Have something done there for a process. Raises `JournalFailed` when no answer comes, and what it raises."""
        network, there, back = self._network, (source.name, self.name), (self.name, source.name)
        answer: asyncio.Future[tuple[Any, WeftError | None]] = self._loop.create_future()

        async def serve() -> None:
            try:
                said: tuple[Any, WeftError | None] = (await work(), None)
            except WeftError as error:
                said = (None, error)
            network.after(network.delay_s(), deliver, said)

        def arrive() -> None:
            if not network.carries(*there):
                return
            if self.process is None:
                gone = JournalFailed("nobody listens at the journal's address", path=self.name)
                network.after(network.delay_s(), deliver, (None, gone))
            else:
                self.process.spawn(serve(), "journal")

        def deliver(said: tuple[Any, WeftError | None]) -> None:
            if network.carries(*back) and not network.loses() and not answer.done():
                answer.set_result(said)

        if not network.loses():
            network.after(network.delay_s(), arrive)
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                result, error = await answer
        except TimeoutError:
            raise JournalFailed(f"the journal did not answer in {_ANSWER_S_MAX:.0f} s", path=self.name) from None
        finally:
            answer.cancel()
        if error is not None:
            raise error
        return result

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch, synced, one after the other."""
        async with self._appending:
            disk, batch = self.disk, sealed.batch
            if expected_position != len(disk.rows):
                raise PositionTaken(f"the tail is at {len(disk.rows)}", position=len(disk.rows))
            refused = disk.refuses.strikes()
            if not refused or disk.coin():
                disk.rows.append(
                    StoredBatch(position=batch.position, parent=batch.parent, digest=sealed.digest, body=sealed.body)
                )
            await asyncio.sleep(disk.sync_s)
            disk.synced_count = len(disk.rows)
            if refused:
                raise JournalFailed("the disk reports an error", reason="EIO")


class SharedDiskJournal:
    """The shared journal's port on a `JournalServer`, for one life of a coordinator."""

    batch_bytes_max = BATCH_BYTES_MAX

    def __init__(self, server: JournalServer, process: Process) -> None:
        self._server = server
        self._process = process
        self._closed = False

    async def append(self, sealed: SealedBatch, expected_position: Position) -> None:
        """Keep a batch after `expected_position`."""
        self._check_open()
        await self._server.ask(self._process, lambda: self._server.append(sealed, expected_position))

    async def read(self, after: Position, count_max: int) -> Sequence[SealedBatch]:
        """The batches after a position."""
        rows: list[StoredBatch] = await self._ask(self._server.rows)
        parent = Digest(rows[after - 1].digest) if 0 < after <= len(rows) else NO_DIGEST
        return verify_run(rows[after : after + count_max], after, parent, "the simulated journal")

    async def oldest(self) -> Position:
        """The position of the oldest batch kept."""
        return Position(1 if await self._ask(self._server.rows) else 0)

    async def tail(self) -> Position:
        """The position of the last batch kept."""
        return Position(len(await self._ask(self._server.rows)))

    async def trim(self, before: Position) -> None:
        """A journal that is shared is not trimmed."""
        raise JournalFailed(f"the simulated journal keeps everything, {before} and before too")

    async def begin(self, after: Position, digest: Digest) -> None:  # noqa: ARG002
        """A simulated log begins at its beginning."""
        raise JournalFailed(f"the simulated journal begins at 1, not after {after}")

    async def wait(self, after: Position, ms_max: int) -> None:
        """Return when there may be a batch after a position, or the time has passed."""
        self._check_open()
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + ms_max / 1_000
        while (left_s := ends_s - loop.time()) > 0 and not self._hears_of(after):  # noqa: ASYNC110 — a cut link wakes nobody.
            await asyncio.sleep(min(_LOOK_S, left_s))

    async def pulse(self, sign: bytes) -> None:
        """Leave a sign of life."""
        await self._ask(lambda: setattr(self._server, "sign", sign))

    async def last_pulse(self) -> bytes:
        """The last sign of life."""
        sign: bytes = await self._ask(lambda: self._server.sign)
        return sign

    async def note(self, text: bytes) -> None:
        """Leave a note."""
        await self._ask(lambda: setattr(self._server, "note_kept", text))

    async def last_note(self) -> bytes:
        """The last note."""
        text: bytes = await self._ask(lambda: self._server.note_kept)
        return text

    async def close(self) -> None:
        """Let go."""
        self._closed = True

    def sever(self) -> None:
        """The process was killed: nothing of it reaches the server any more."""
        self._closed = True

    def _hears_of(self, after: Position) -> bool:
        network = self._server._network
        return (
            self._server.process is not None
            and self._server.disk.synced_count > after
            and network.carries(self._server.name, self._process.name)
        )

    async def _ask(self, look: Callable[[], Any]) -> Any:
        self._check_open()

        async def work() -> Any:
            return look()

        return await self._server.ask(self._process, work)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")
