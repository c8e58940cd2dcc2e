"""Layers on a stage: each opened as it is in life, with a way to take it away, bring it back and do it harm."""

import asyncio
import base64
import io
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from weft.ledger.archive import Archive
from weft.ledger.envelope import Publisher
from weft.ledger.layer import Commitment, Layer
from weft.ledger.layers import CelestiaLayer, EmergencyLayer, HttpxHttp, MemoryLayer, QuorumLayer, ValidatorAddress
from weft.ledger.layers.ports import Answer
from weft.model.errors import Disconnected
from weft.model.namespace import parse_namespace
from weft.receipts import Domain, SigningKey
from weft.serve import Gate
from weft.serve.server import Server, bind
from weft.telemetry import Log
from weft.testing.celestia import ChainDouble, Fate, NodeDouble, mint_token
from weft.testing.faults import Fault
from weft.witness.log import BlobLog
from weft.witness.service import Witness
from weft.witness.shelf import Shelf


class Stage(Protocol):
    """A layer, and the hand that harms it."""

    @property
    def layer(self) -> Layer: ...

    @property
    def scan_settles(self) -> bool:
        """Whether a blob that a scan finds is kept as well as any."""

    async def take_away(self) -> None:
        """Nobody reaches the layer from now on."""

    async def bring_back(self) -> None:
        """They do again."""

    async def damage(self, commitment: Commitment) -> None:
        """Other bytes lie where a blob did, wherever the layer keeps it."""

    async def lose_next_answer(self) -> None:
        """The next put is done, and whoever asked for it does not hear so."""

    async def hear_again(self) -> None:
        """What is done is heard of."""


class SystemClock:
    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class SystemRandom:
    def draw(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)


class MemoryStage:
    scan_settles = True

    def __init__(self) -> None:
        self.layer = MemoryLayer(SystemClock(), SystemRandom())

    async def take_away(self) -> None:
        self.layer.is_down = True

    async def bring_back(self) -> None:
        self.layer.is_down = False

    async def damage(self, commitment: Commitment) -> None:
        self.layer.damage(commitment, b"something else")

    async def hear_again(self) -> None: ...

    async def lose_next_answer(self) -> None:
        self.layer.fails_after = Fault.after(0)


class LossyHttp(HttpxHttp):
    """The real way over loopback, which can lose an answer that has come."""

    def __init__(self) -> None:
        super().__init__()
        self.loses_count = 0

    async def send(self, method: str, url: str, **rest: object) -> Answer:
        answer = await super().send(method, url, **rest)  # type: ignore[arg-type]
        if method in ("PUT", "POST") and self.loses_count > 0:
            self.loses_count -= 1
            raise Disconnected(f"the connection to {url} ended", url=url)
        return answer


class Running:
    """An ASGI application on a port of its own, which it gets again when it comes back.

    The server is the one of the processes, begun and ended by hand: its own end takes two tenths of a second of sleep,
    and there are hundreds of ends in these tests.
    """

    def __init__(self) -> None:
        self.port = 0
        self._server: Server | None = None
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, app: object) -> None:
        self._listener = bind("127.0.0.1", self.port)
        self.port = self._listener.getsockname()[1]
        server = Server(app, lambda: None, lambda: None)  # type: ignore[arg-type]
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([self._listener])
        self._server = server

    async def stop(self) -> None:
        """End as a process does that is killed: connections break, and nobody is answered any more."""
        if self._server is None or self._listener is None:
            return
        server, self._server = self._server, None
        for one in server.servers:
            one.close()
        self._listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for task in list(server.server_state.tasks):
            task.cancel()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


class WitnessStage:
    """A real witness over loopback. Taking it away ends it; bringing it back opens its directory again."""

    def __init__(self, directory: Path, *, key: object = None, name: str = "") -> None:
        self.directory = directory
        self.running = Running()
        self._key, self._name = key, name
        self._shelf: Shelf | None = None

    async def start(self) -> None:
        self._shelf = Shelf(BlobLog(self.directory))
        log = Log(io.StringIO(), lambda: 0)
        witness = Witness(self._shelf, Gate(["token"]), SystemRandom(), log, key=self._key, name=self._name)  # type: ignore[arg-type]
        await self.running.start(witness.app)

    async def stop(self) -> None:
        await self.running.stop()
        if self._shelf is not None:
            await self._shelf.close()
            self._shelf = None

    def keeps(self, commitment: Commitment) -> bool:
        return self._shelf is not None and self._shelf.log.found(commitment) is not None

    def damage(self, commitment: Commitment) -> None:
        assert self._shelf is not None
        entry = self._shelf.log.found(commitment)
        assert entry is not None
        with self._shelf.log.path.open("r+b") as file:
            file.seek(entry.offset)
            (byte,) = file.read(1)
            file.seek(entry.offset)
            file.write(bytes([byte ^ 1]))


class EmergencyStage:
    scan_settles = True

    def __init__(self, directory: Path) -> None:
        self.witness = WitnessStage(directory / "emergency")
        self.http = LossyHttp()

    async def open(self) -> None:
        await self.witness.start()
        self.layer = EmergencyLayer(self.http, SystemClock(), self.witness.running.url, "token", timeout_ms=5_000)

    async def close(self) -> None:
        await self.layer.close()
        await self.http.close()
        await self.witness.stop()

    async def take_away(self) -> None:
        await self.witness.stop()

    async def bring_back(self) -> None:
        await self.witness.start()

    async def damage(self, commitment: Commitment) -> None:
        self.witness.damage(commitment)

    async def hear_again(self) -> None: ...

    async def lose_next_answer(self) -> None:
        self.http.loses_count = 1


CLUSTER = SigningKey.from_secret(b"the cluster of these tests", Domain.PUBLISHER).public


class QuorumStage:
    """Four validators, three of whom must sign."""

    scan_settles = False

    def __init__(self, directory: Path, *, count: int = 4, timeout_ms: int = 5_000, pinned: bool = True) -> None:
        self.keys = [SigningKey(bytes([number]) * 32, Domain.VALIDATOR) for number in range(count)]
        self.witnesses = [
            WitnessStage(directory / f"validator-{number}", key=key, name=f"v{number}")
            for number, key in enumerate(self.keys)
        ]
        self.http = LossyHttp()
        self.timeout_ms = timeout_ms
        self.pinned = pinned

    async def open(self) -> None:
        await asyncio.gather(*(witness.start() for witness in self.witnesses))
        self.layer = self.new_layer()

    def new_layer(self) -> QuorumLayer:
        """Another coordinator of the same cluster."""
        return QuorumLayer(
            self.http,
            SystemClock(),
            [
                ValidatorAddress(witness.running.url, key.public if self.pinned else None)
                for witness, key in zip(self.witnesses, self.keys, strict=True)
            ],
            CLUSTER,
            "token",
            threshold_percent=67,
            timeout_ms=self.timeout_ms,
        )

    async def close(self) -> None:
        await self.layer.close()
        await self.http.close()
        await asyncio.gather(*(witness.stop() for witness in self.witnesses))

    async def take_away(self) -> None:
        await asyncio.gather(*(witness.stop() for witness in self.witnesses))

    async def bring_back(self) -> None:
        await asyncio.gather(*(witness.start() for witness in self.witnesses))

    async def damage(self, commitment: Commitment) -> None:
        await self.settled(commitment)
        for witness in self.witnesses:
            witness.damage(commitment)

    async def settled(self, commitment: Commitment) -> None:
        """Until the slowest validator has the blob too."""
        while not all(witness.keeps(commitment) for witness in self.witnesses):  # noqa: ASYNC110 — the file of another thread.
            await asyncio.sleep(0.005)

    async def hear_again(self) -> None: ...

    async def lose_next_answer(self) -> None:
        # Enough for the others to be too few. The rest of the answers is given up on, and not lost.
        self.http.loses_count = 2


NAMESPACE = parse_namespace("00" * 19 + "77656674000000000001")
PUBLISHER = SigningKey.from_secret(b"the cluster of these tests", Domain.PUBLISHER)
NODE_SECRET = b"the node's own"


class CelestiaStage:
    """The double of a node, with a block every twenty milliseconds."""

    scan_settles = True

    def __init__(self, directory: Path, *, timeout_ms: int = 5_000, block_ms: int = 20) -> None:
        self.directory = directory
        self.running = Running()
        self.http = LossyHttp()
        self.chain = ChainDouble()
        self.node = NodeDouble(self.chain, NODE_SECRET)
        self.timeout_ms = timeout_ms
        self.block_ms = block_ms
        self._blocks: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.running.start(self.node)
        self.go_on()
        self.layer = self.new_layer("archive")

    def new_layer(self, archive: str, *, token: str | None = None, timeout_ms: int | None = None) -> CelestiaLayer:
        """A coordinator's way to the node, with an archive of its own."""
        return CelestiaLayer(
            self.http,
            SystemClock(),
            Archive(self.directory / archive, layer="celestia"),
            Publisher(PUBLISHER),
            rpc_url=self.running.url,
            namespace=NAMESPACE,
            token=token or mint_token(NODE_SECRET, "public", "read", "write"),
            auth_header="Authorization",
            timeout_ms=timeout_ms or self.timeout_ms,
            poll_ms=10,
        )

    def go_on(self) -> None:
        """Blocks are made from now on."""
        self._blocks = asyncio.create_task(self.node.produce_blocks(self.block_ms))

    def stand_still(self) -> None:
        """No block is made any more."""
        assert self._blocks is not None
        self._blocks.cancel()

    async def close(self) -> None:
        self.stand_still()
        await self.layer.close()
        await self.http.close()
        await self.running.stop()

    async def archived(self) -> None:
        """Until the archive has every height that was put to."""
        assert self.layer._following is not None
        await self.layer._following

    async def take_away(self) -> None:
        await self.running.stop()

    async def bring_back(self) -> None:
        await self.running.start(self.node)

    async def damage(self, commitment: Commitment) -> None:
        """The node lies, and the archive's file was changed."""
        place = await self.layer._archive.place_of(commitment)
        assert place is not None
        self.lie(place.height, place.mark)
        self.archive_file("archive", commitment).write_bytes(b"something else")

    def lie(self, height: int, mark: bytes) -> None:
        """The node gives other bytes, and says that they are the same blob."""
        text = base64.b64encode(mark).decode()
        for ordinal, blob in enumerate(self.chain.blobs(height)):
            if blob["commitment"] == text:
                data = bytearray(base64.b64decode(blob["data"]))
                data[-1] ^= 1
                self.chain.change(height, ordinal, {**blob, "data": base64.b64encode(data).decode()})

    def archive_file(self, archive: str, commitment: Commitment) -> Path:
        return self.directory / archive / "blobs" / commitment[:2] / commitment

    async def lose_next_answer(self) -> None:
        """The submission lands, and no block is seen that says so before the put's time is up."""
        self.chain.fates.append(Fate.TIMES_OUT_AND_LANDS)
        self.stand_still()
        self.layer._timeout_ms = 300

    async def hear_again(self) -> None:
        self.layer._timeout_ms = self.timeout_ms
        self.go_on()


STAGES = ["memory", "emergency", "quorum", "celestia"]


@asynccontextmanager
async def open_stage(name: str, directory: Path) -> AsyncIterator[Stage]:
    if name == "memory":
        memory = MemoryStage()
        yield memory
        await memory.layer.close()
        return
    stage = {"emergency": EmergencyStage, "quorum": QuorumStage, "celestia": CelestiaStage}[name](directory)
    await stage.open()
    try:
        yield stage
    finally:
        await stage.close()
