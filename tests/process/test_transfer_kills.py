"""Either side of a transfer stopped or killed at any moment under load: everything ends by its deadline, what was
acknowledged is there, and nobody else's bytes are touched."""

import contextlib
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import weft
from weft.cli.demo.cluster import OWN_SETTINGS
from weft.cli.demo.crew import Child, Crew
from weft.dataplane.endpoint import Advert, Endpoint, Peer
from weft.model.errors import Busy, Closed, Failed, TimedOut

PARTNER = Path(__file__).parent / "programs" / "partner.py"
SLICE = 1 << 20
WRITERS = 4
TIMEOUT_MS = 500
# What a busy machine may add to a deadline: two threads of this suite share a processor with everything else.
SLACK_S = 4.0

pytestmark = pytest.mark.process

# Writes its own number, and nothing else, into its own slice.
WRITER = """
import sys, weft
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import Failed
metadata, advert = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2])
transport, number = sys.argv[3], int(sys.argv[4])
endpoint = Endpoint.listen(secret=b"tests", transport=transport)
peer, advert = endpoint.connect(metadata), weft.Advert(advert)
print("loading", flush=True)
data, place = bytes([number]) * (1 << 20), number << 20
while True:
    try:
        peer.write_now(advert, data, offset=place, timeout_ms=2_000)
        places = [place + (part << 18) for part in range(4)]
        posted = [peer.write(advert, data[:1 << 18], offset=at, timeout_ms=2_000) for at in places]
        peer.writev_now([(advert, place + step, data[:4096]) for step in range(0, 1 << 20, 1 << 16)], timeout_ms=2_000)
        for one in posted:
            one.wait()
    except Failed:
        pass
"""


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("WEFT_TEST_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew({}, without=OWN_SETTINGS) as made:
        yield made


def stop(child: Child) -> None:
    child.process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    tasks = Path(f"/proc/{child.pid}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        assert time.monotonic() < deadline, "the process does not stop"
        time.sleep(0.001)


class Load:
    """Threads that write and read back slices of their own, and note what took longer than its deadline."""

    def __init__(self, peer: Peer, advert: Advert, seed: int) -> None:
        self.peer, self.advert = peer, advert
        self.done, self.failed = 0, 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed + number))) for number in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _timed(self, move: Callable[[], object]) -> bool:
        started = time.monotonic()
        try:
            move()
        except Failed as error:
            self.failed += 1
            if error.code not in {"timed_out", "disconnected", "unreachable", "extent_lost", "closed"}:
                self.wrong.append(f"{error.code}: {error}")
            if self._stop.is_set() or error.code in {"unreachable", "extent_lost"}:
                self._stop.wait(0.02)
            return False
        finally:
            took = time.monotonic() - started
            if took > TIMEOUT_MS / 1_000 + SLACK_S:
                self.wrong.append(f"{took:.1f} s with a deadline of {TIMEOUT_MS} ms")
        self.done += 1
        return True

    def _write(self, form: int, data: bytes, place: int) -> object:
        if form == 0:
            return self.peer.write_now(self.advert, data, offset=place, timeout_ms=TIMEOUT_MS)
        if form == 1:
            return self.peer.write(self.advert, data, offset=place, timeout_ms=TIMEOUT_MS).wait()
        half = len(data) // 2
        parts = [(self.advert, place + at, part) for at, part in ((0, data[:half]), (half, data[half:])) if part]
        return self.peer.writev(parts, timeout_ms=TIMEOUT_MS).wait()

    def _read(self, form: int, into: memoryview, place: int) -> object:
        if form == 0:
            return self.peer.read_now(self.advert, into, offset=place, timeout_ms=TIMEOUT_MS)
        return self.peer.read(self.advert, into, offset=place, timeout_ms=TIMEOUT_MS).wait()

    def _run(self, number: int, chance: random.Random) -> None:
        place, into = number * SLICE, memoryview(bytearray(SLICE))
        while not self._stop.is_set():
            data = chance.randbytes(chance.choice([1, 4096, 70_000, SLICE]))
            if not self._timed(partial(self._write, chance.randrange(3), data, place)):
                continue
            part = into[: len(data)]
            if self._timed(partial(self._read, chance.randrange(2), part, place)) and part != data:
                self.wrong.append("what was acknowledged is not what is read")

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_MS / 1_000 + 2 * SLACK_S)
        assert not any(thread.is_alive() for thread in self._threads), "a transfer is held beyond its deadline"
        assert not self.wrong, self.wrong[:5]


def partner(crew: Crew, transport: str, name: str) -> tuple[Child, bytes, Advert]:
    child = crew.start(name, str(PARTNER), transport, str(WRITERS * SLICE))
    _, metadata, advert = child.line_with("partner ", 30).split()
    return child, bytes.fromhex(metadata), weft.Advert(bytes.fromhex(advert))


@pytest.mark.parametrize("transport", ["tcp", "tcpx", "ipc"])
def test_an_owner_that_stops_at_any_moment_holds_nobody_beyond_a_deadline(
    crew: Crew, chance: random.Random, transport: str
) -> None:
    child, metadata, advert = partner(crew, transport, "owner")
    with Endpoint.listen(secret=b"tests", transport=transport) as endpoint:
        load = Load(endpoint.connect(metadata), advert, chance.randrange(2**32))
        for _ in range(6):
            time.sleep(chance.uniform(0.01, 0.15))
            stop(child)
            time.sleep(chance.choice([0.01, 0.1, 0.7]))
            child.process.send_signal(signal.SIGCONT)
        before, deadline = load.done, time.monotonic() + 20
        while load.done < before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        load.end()
        assert load.done >= before + 20, "nothing goes on once its owner does"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_an_owner_that_is_killed_at_any_moment_fails_what_it_was_asked_and_its_next_life_is_met_anew(
    crew: Crew, chance: random.Random, transport: str
) -> None:
    with Endpoint.listen(secret=b"tests", transport=transport) as endpoint:
        for life in range(4):
            child, metadata, advert = partner(crew, transport, f"owner {life}")
            with endpoint.connect(metadata) as peer:
                load = Load(peer, advert, chance.randrange(2**32))
                time.sleep(chance.uniform(0.0, 0.25))
                child.kill()
                killed, failed = time.monotonic(), load.failed
                while load.failed < failed + WRITERS and time.monotonic() < killed + 20:
                    time.sleep(0.01)
                load.end()
                assert load.failed >= failed + WRITERS, "not every thread was told"
        assert endpoint.status().transfers == 0


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_askers_that_stop_and_die_at_any_moment_touch_nothing_but_what_is_theirs(
    crew: Crew, chance: random.Random, transport: str
) -> None:
    memory = bytearray(b"\xff") * (6 * SLICE)
    with Endpoint.listen(secret=b"tests", transport=transport) as owner, owner.register(memory) as registered:
        advert = registered.advertise().encode().hex()

        def writer(number: int) -> Child:
            made = crew.start(f"writer {number}", "-c", WRITER, owner.metadata.hex(), advert, transport, str(number))
            made.line_with("loading", 30)
            return made

        writers = {number: writer(number) for number in (1, 2, 4)}
        # One that behaves: its slice is the fourth, counted from nothing.
        with Endpoint.listen(secret=b"tests", transport=transport) as other, other.connect(owner.metadata) as peer:
            right = weft.Advert(bytes.fromhex(advert))
            for round_ in range(8):
                number = chance.choice([1, 2, 4])
                time.sleep(chance.uniform(0.0, 0.05))
                if chance.random() < 0.5:
                    stop(writers[number])
                    time.sleep(chance.uniform(0.0, 0.2))
                    writers[number].process.send_signal(signal.SIGCONT)
                else:
                    writers[number].kill()
                    writers[number] = writer(number)
                data, back = chance.randbytes(SLICE), bytearray(SLICE)
                started = time.monotonic()
                peer.write_now(right, data, offset=3 * SLICE)
                peer.read_now(right, back, offset=3 * SLICE)
                assert back == data, f"round {round_}"
                assert time.monotonic() - started < SLACK_S, "others hold up one that behaves"
            for one in writers.values():
                one.kill()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            # A neighbour that died inside a copy is out once the kernel is done with it.
            with contextlib.suppress(Busy):
                registered.release()
                break
        assert memory[3 * SLICE : 4 * SLICE] == data
        for number in (0, 5):
            assert memory[number * SLICE : (number + 1) * SLICE] == b"\xff" * SLICE, f"slice {number} is nobody's"
        for number in (1, 2, 4):
            found = set(memory[number * SLICE : (number + 1) * SLICE])
            assert found <= {number, 0xFF}, f"slice {number} has bytes of {found}"


# Sends back what it receives, one after the other; what did not come or was not taken in time is given up.
MIRROR = """
import sys
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import Failed
with Endpoint.listen(secret=b"tests", name="mirror", transport=sys.argv[1]) as endpoint:
    print("mirror", endpoint.metadata.hex(), flush=True)
    peer = endpoint.accept(30_000)
    while True:
        buffer = bytearray(1 << 18)
        try:
            length = peer.recv(buffer, tag=1, timeout_ms=300).wait()
            peer.send(memoryview(buffer)[:length], tag=2, timeout_ms=300).wait()
        except Failed:
            pass
"""


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_what_is_sent_to_one_that_stops_at_any_moment_arrives_whole_in_order_and_once(
    crew: Crew, chance: random.Random, transport: str
) -> None:
    child = crew.start("mirror", "-c", MIRROR, transport)
    metadata = bytes.fromhex(child.line_with("mirror ", 30).split()[1])
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(chance.uniform(0.02, 0.2)):
            stop(child)
            time.sleep(chance.choice([0.005, 0.1, 0.5]))
            child.process.send_signal(signal.SIGCONT)

    with Endpoint.listen(secret=b"tests", transport=transport) as endpoint, endpoint.connect(metadata) as peer:
        disturbing = threading.Thread(target=disturb)
        sent: dict[int, bytes] = {}
        last, whole, into, ends = -1, 0, bytearray(1 << 18), time.monotonic() + 5
        disturbing.start()
        try:
            for number in range(100_000):
                quiet = time.monotonic() > ends
                if quiet:
                    over.set()
                    disturbing.join(10)
                if whole >= 10 and quiet and last == number - 1:
                    break
                assert time.monotonic() < ends + 20, f"only {whole} came back"
                sent[number] = struct.pack("<Q", number) + chance.randbytes(chance.choice([1, 5_000, 200_000]))
                back = peer.recv(into, tag=2, timeout_ms=800)
                started = time.monotonic()
                with contextlib.suppress(Failed):
                    peer.send(sent[number], tag=1, timeout_ms=400).wait()
                with contextlib.suppress(Failed):
                    length = back.wait()
                    arrived = struct.unpack_from("<Q", into)[0]
                    assert into[:length] == sent[arrived], f"{arrived} is not what was sent"
                    assert arrived > last, f"{arrived} came after {last}"
                    last, whole = arrived, whole + 1
                assert time.monotonic() - started < 1.2 + SLACK_S
        finally:
            over.set()
            disturbing.join(10)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_an_endpoint_whose_peer_is_stopped_closes_at_once_and_ends_what_was_under_way(
    crew: Crew, transport: str
) -> None:
    child, metadata, advert = partner(crew, transport, "owner")
    endpoint = Endpoint.listen(secret=b"tests", transport=transport)
    peer = endpoint.connect(metadata)
    peer.write_now(advert, bytes(SLICE))
    registered = endpoint.register(bytearray(SLICE))
    stop(child)
    started = time.monotonic()
    under_way = [peer.notify(b"hash"), peer.recv(bytearray(10)), peer.send(b"x")]
    if transport == "tcp":
        under_way += [peer.write(advert, bytes(SLICE)), peer.read(advert, bytearray(SLICE))]
        with Endpoint.listen(secret=b"tests", transport=transport) as other, pytest.raises(TimedOut):
            other.connect(metadata)
    registered.release()
    endpoint.close()
    for transfer in under_way:
        with pytest.raises(Closed):
            transfer.wait()
    assert time.monotonic() - started < 2 + 2 * SLACK_S, "a stopped peer held up whoever wanted to leave"
    child.kill()
