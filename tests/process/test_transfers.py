"""Transfers between real processes: any sequence of operations, and peers that die, stop and come back under load."""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import weft
from weft.cli.demo.cluster import OWN_SETTINGS
from weft.cli.demo.crew import Child, Crew
from weft.dataplane.endpoint import Endpoint, Peer
from weft.dataplane.metadata import Metadata
from weft.dataplane.transfer import Transfer
from weft.model.errors import Busy, Failed, TimedOut, WeftError

PROGRAM = Path(__file__).parent / "programs" / "partner.py"
SIZE = 16 << 20
# How many random operations; a longer form is asked for by name.
OPERATIONS = int(os.environ.get("WEFT_TEST_OPERATIONS", "10000"))

pytestmark = pytest.mark.process


class Met:
    """A partner process, and the way to its memory."""

    def __init__(self, crew: Crew, transport: str, *memory: str) -> None:
        self.child: Child = crew.start("partner", str(PROGRAM), transport, str(SIZE), *memory)
        _, metadata, advert = self.child.line_with("partner ", 30).split()
        self.endpoint = Endpoint.listen(secret=b"tests", name=f"tests-{random.random()}", transport=transport)
        self.peer: Peer = self.endpoint.connect(bytes.fromhex(metadata))
        self.advert = weft.Advert(bytes.fromhex(advert))
        assert self.peer.transport == transport


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew({}, without=OWN_SETTINGS) as made:
        yield made


@pytest.fixture(params=["tcp", "ipc", "ipc allocated"])
def met(crew: Crew, request: pytest.FixtureRequest) -> Iterator[Met]:
    made = Met(crew, *request.param.split())
    yield made
    made.endpoint.close()


def test_any_sequence_of_operations_leaves_what_a_plain_array_would_have(met: Met) -> None:
    seed = int(os.environ.get("WEFT_TEST_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    chance, model = random.Random(seed), bytearray(SIZE)
    # Transfers under way touch ranges of their own: what overlaps may end in either order.
    under_way: list[tuple[Transfer, int, int, bytearray | None, bytes]] = []

    def settle() -> None:
        for transfer, start, end, into, expected in under_way:
            assert transfer.wait() == end - start
            assert transfer.result() == end - start
            if into is not None:
                assert into == expected
        under_way.clear()

    def free(start: int, end: int) -> bool:
        return all(end <= low or start >= high for _, low, high, _, _ in under_way)

    def stretch() -> tuple[int, int]:
        length = chance.choice([1, 3, 100, 4096, 4097, 65_536, 300_000, chance.randrange(1, 3 << 20)])
        start = chance.randrange(0, SIZE - length)
        return start, start + length

    for index in range(OPERATIONS):
        start, end = stretch()
        if not free(start, end) or len(under_way) > 32:
            settle()
        match chance.randrange(8):
            case 0:
                into = bytearray(end - start)
                met.peer.read_now(met.advert, into, offset=start)
                assert into == model[start:end]
            case 1:
                data = chance.randbytes(end - start)
                met.peer.write_now(met.advert, data, offset=start)
                model[start:end] = data
            case 2:
                into = bytearray(end - start)
                transfer = met.peer.read(met.advert, into, offset=start)
                under_way.append((transfer, start, end, into, bytes(model[start:end])))
            case 3 | 4:
                data = chance.randbytes(end - start)
                under_way.append((met.peer.write(met.advert, data, offset=start), start, end, None, b""))
                model[start:end] = data
            case 5:
                settle()
                places = sorted(chance.sample(range(0, SIZE - 4096, 4096), chance.randrange(1, 40)))
                buffers = [bytearray(chance.randrange(1, 4097)) for _ in places]
                read = met.peer.readv_now if chance.random() < 0.5 else lambda items: met.peer.readv(items).wait()
                read([(met.advert, place, buffer) for place, buffer in zip(places, buffers, strict=True)])
                for place, buffer in zip(places, buffers, strict=True):
                    assert buffer == model[place : place + len(buffer)]
            case 6:
                settle()
                places = sorted(chance.sample(range(0, SIZE - 4096, 4096), chance.randrange(1, 40)))
                pieces = [chance.randbytes(chance.randrange(1, 4097)) for _ in places]
                met.peer.writev(
                    [(met.advert, place, piece) for place, piece in zip(places, pieces, strict=True)]
                ).wait()
                for place, piece in zip(places, pieces, strict=True):
                    model[place : place + len(piece)] = piece
            case _:
                data, back = chance.randbytes(end - start), bytearray(end - start)
                tag = chance.randrange(2**64)
                received = met.peer.recv(back, tag=(tag + 1) % 2**64)
                met.peer.notify(b"echo", struct.pack("<QQ", tag, len(data))).wait()
                assert met.peer.send(data, tag=tag).wait() == received.wait() == len(data)
                assert back == data, f"operation {index}"
    settle()
    met.peer.notify(b"hash").wait()
    assert met.endpoint.notifications(10_000)[0].content == hashlib.sha256(model).digest()


def stop(child: Child) -> None:
    """Stops a process, and returns when the last of its threads has stopped."""
    child.process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    tasks = Path(f"/proc/{child.pid}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        assert time.monotonic() < deadline, "the process does not stop"
        time.sleep(0.001)


def test_a_stopped_peer_holds_no_transfer_beyond_its_deadline_and_goes_on_when_it_runs_again(met: Met) -> None:
    into = bytearray(4096)
    met.peer.read_now(met.advert, into)
    stop(met.child)
    started = time.monotonic()
    transfers = [met.peer.notify(b"hash", timeout_ms=700), met.peer.recv(bytearray(10), timeout_ms=700)]
    transfers += [met.peer.send(b"x", timeout_ms=700)]
    if met.peer.transport == "tcp":
        transfers += [met.peer.read(met.advert, bytearray(SIZE), timeout_ms=700) for _ in range(4)]
        transfers += [met.peer.write(met.advert, bytes(SIZE), timeout_ms=700) for _ in range(4)]
        with pytest.raises(TimedOut):
            met.peer.read_now(met.advert, into, timeout_ms=700)
        with pytest.raises(TimedOut):
            met.peer.write_now(met.advert, bytes(SIZE), timeout_ms=700)
    for transfer in transfers:
        with pytest.raises(TimedOut):
            transfer.wait()
    assert time.monotonic() - started < 5
    met.child.process.send_signal(signal.SIGCONT)
    data = os.urandom(SIZE)
    assert met.peer.write(met.advert, data).wait() == SIZE
    back = bytearray(SIZE)
    assert met.peer.read_now(met.advert, back) == SIZE
    assert back == data, "what was given up landed after what was written later"


def test_every_transfer_with_a_peer_that_is_killed_under_load_ends(met: Met) -> None:
    stop, ended = threading.Event(), []

    def load(number: int) -> None:
        buffer = bytearray(1 << 20)
        while not stop.is_set():
            try:
                if number % 2:
                    met.peer.read_now(met.advert, buffer, offset=number << 20)
                else:
                    met.peer.write(met.advert, buffer, offset=number << 20).wait()
            except Failed as error:
                ended.append(error.code)
                return

    threads = [threading.Thread(target=load, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    received = met.peer.recv(bytearray(10), tag=1)
    time.sleep(random.uniform(0.0, 0.2))
    met.child.kill()
    for thread in threads:
        thread.join(20)
    stop.set()
    assert len(ended) == 6, f"only {ended} ended"
    assert set(ended) <= {"unreachable", "disconnected", "timed_out"}
    started = time.monotonic()
    with pytest.raises(Failed):
        met.peer.read_now(met.advert, bytearray(10))
    with pytest.raises(Failed):
        met.peer.write(met.advert, b"x").wait()
    assert time.monotonic() - started < 10
    received.cancel()
    with pytest.raises(WeftError):
        received.wait()


def test_an_endpoint_that_is_killed_under_load_leaves_its_partner_whole(crew: Crew) -> None:
    met = Met(crew, "tcp")
    with met.endpoint:
        for _ in range(3):
            crowd = crew.start(
                "crowd",
                "-c",
                "import sys, weft\n"
                "from weft.dataplane.endpoint import Endpoint\n"
                "e = Endpoint.listen(secret=b'tests')\n"
                "peer, advert = e.connect(bytes.fromhex(sys.argv[1])), weft.Advert(bytes.fromhex(sys.argv[2]))\n"
                "print('loading', flush=True)\n"
                "while True: peer.write(advert, bytes(1 << 20), offset=8 << 20).wait()\n",
                Metadata(host=met.peer.address[0], port=met.peer.address[1]).encode().hex(),
                met.advert.encode().hex(),
            )
            crowd.line_with("loading", 30)
            time.sleep(0.05)
            crowd.kill()
        data, back = os.urandom(1 << 20), bytearray(1 << 20)
        met.peer.write_now(met.advert, data)
        met.peer.read_now(met.advert, back)
        assert back == data


LOAD = """
import sys, weft
from weft.dataplane.endpoint import Endpoint
endpoint = Endpoint.listen(secret=b"tests", transport=sys.argv[3])
peer, advert = endpoint.connect(bytes.fromhex(sys.argv[1])), weft.Advert(bytes.fromhex(sys.argv[2]))
print("loading", flush=True)
while True:
    peer.write_now(advert, bytes(1 << 20))
    peer.write(advert, bytes(1 << 20)).wait()
"""


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_peer_that_is_stopped_in_the_middle_of_a_write_does_not_keep_a_buffer(crew: Crew, transport: str) -> None:
    with Endpoint.listen(secret=b"tests", transport=transport) as endpoint:
        for _ in range(4):
            memory = bytearray(1 << 20)
            registered = endpoint.register(memory)
            advert = registered.advertise().encode().hex()
            writer = crew.start("writer", "-c", LOAD, endpoint.metadata.hex(), advert, transport)
            writer.line_with("loading", 30)
            time.sleep(random.uniform(0.01, 0.05))
            stop(writer)
            try:
                registered.release()
            except Busy:
                # It was stopped inside: its copy may go on any time, so the buffer stays until its process does.
                assert transport == "ipc"
                writer.kill()
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    with contextlib.suppress(Busy):
                        registered.release()
                        break
            memory[:] = b"mine" * (1 << 18)
            if writer.process.poll() is None:
                writer.process.send_signal(signal.SIGCONT)
                writer.wait(30)
            assert memory == b"mine" * (1 << 18)


def test_a_thousand_connections_leave_no_descriptor_thread_or_memory_behind_on_either_side(met: Met) -> None:
    def held(process: int) -> tuple[int, int, int]:
        home = Path(f"/proc/{process}")
        fds = len(list((home / "fd").iterdir()))
        threads = len(list((home / "task").iterdir()))
        pages = int((home / "statm").read_text().split()[1])
        return fds, threads, pages

    sides = {"this side": os.getpid(), "the peer": met.child.pid}

    address = met.peer.address

    def once() -> None:
        with met.endpoint.connect(address) as peer:
            peer.read_now(met.advert, bytearray(100))

    async def posted() -> None:
        with met.endpoint.connect(address) as peer:
            await peer.read(met.advert, bytearray(100))

    for _ in range(50):
        once()
        asyncio.run(posted())
    time.sleep(0.3)
    before = {side: held(process) for side, process in sides.items()}
    for _ in range(500):
        once()
        asyncio.run(posted())
    deadline = time.monotonic() + 10
    for side, process in sides.items():
        fds, threads, pages = before[side]
        most = (fds + 3, threads, pages + 2_000)
        while any(now > limit for now, limit in zip(held(process), most, strict=True)) and time.monotonic() < deadline:
            time.sleep(0.05)
        after = held(process)
        assert after[0] <= fds + 3, f"descriptors of {side}: {fds} before, {after[0]} after"
        assert after[1] <= threads, f"threads of {side}: {threads} before, {after[1]} after"
        assert after[2] <= pages + 2_000, f"pages of {side}: {pages} before, {after[2]} after"
