"""Fragments gathered from a bounce buffer: Rust beside NumPy, and a connection whose answers land in one."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft._native import BounceConnection, UnpackBlock
from weft.dataplane.endpoint import Advert, Endpoint
from weft.model.errors import BadArgument, Closed, OutOfRange, TimedOut, Unreachable

SECRET = b"the secret of these tests"
BOUNCE_BYTES = 1 << 16
SIZE = 3_000_001
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def random_bytes(length: int, seed: int = 3) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)


@st.composite
def fragment_lists(draw: st.DrawFn) -> tuple[list[tuple[int, int, int]], int]:
    """Disjoint targets with gaps, sources anywhere (they may overlap), in any order."""
    at, fragments = draw(st.integers(0, 20)), []
    for _ in range(draw(st.integers(0, 40))):
        length = draw(st.integers(1, 700))
        fragments.append((draw(st.integers(0, BOUNCE_BYTES - length)), length, at))
        at += length + draw(st.integers(0, 20))
    return draw(st.permutations(fragments)), at


def with_numpy(fragments: list[tuple[int, int, int]], bounce: Bytes, target_bytes: int) -> Bytes:
    target = np.full(target_bytes, 0xEE, np.uint8)
    for source, length, at in fragments:
        target[at : at + length] = bounce[source : source + length]
    return target


@settings(max_examples=100, deadline=None)
@given(fragment_lists(), st.integers(0, 99))
def test_any_block_is_unpacked_as_numpy_would(lists: tuple[list[tuple[int, int, int]], int], seed: int) -> None:
    fragments, target_bytes = lists
    bounce = random_bytes(BOUNCE_BYTES, seed)
    block = UnpackBlock(UnpackBlock.of(fragments, BOUNCE_BYTES, target_bytes).encode())
    target = np.full(target_bytes, 0xEE, np.uint8)
    assert block.unpack(bounce, target) == sum(length for _, length, _ in fragments) == block.total_bytes
    assert np.array_equal(target, with_numpy(fragments, bounce, target_bytes))


@pytest.mark.parametrize(
    ("fragments", "said"),
    [
        ([(0, 0, 0)], "fragment 0 has no bytes"),
        ([(BOUNCE_BYTES - 1, 2, 0)], "the bounce buffer at 65536"),
        ([(0, 2, 99)], "the target ends at 100"),
        ([(0, 5, 10), (50, 5, 14)], "two fragments write byte 14"),
        ([(0, 1, 0)] * 2049, "at most 2048 fragments"),
    ],
)
def test_a_list_that_is_no_block_is_refused_with_the_reason(fragments: list[tuple[int, int, int]], said: str) -> None:
    with pytest.raises(BadArgument, match=said):
        UnpackBlock.of(fragments, BOUNCE_BYTES, 100)


def test_a_block_is_unpacked_only_between_the_memory_it_was_checked_against() -> None:
    block = UnpackBlock.of([(0, 10, 0)], BOUNCE_BYTES, 100)
    bounce = random_bytes(BOUNCE_BYTES)
    for source, target in ((bounce[:-16], bytearray(100)), (bounce, bytearray(99)), (bounce, bytearray(101))):
        with pytest.raises(BadArgument, match="was checked for"):
            block.unpack(source, target)
    with pytest.raises(BadArgument, match="share memory"):
        block.unpack(bounce, bounce[:100])


class World:
    """An owner of advertised memory."""

    def __init__(self) -> None:
        self.owner = Endpoint.listen(secret=SECRET, name="owner")
        self.content = random_bytes(SIZE)
        self._registered = self.owner.register(self.content)
        self.advert: Advert = self._registered.advertise()

    def connect(self, bounce_bytes: int = 2 << 20, shuffle: int | None = None) -> BounceConnection:
        host, port = self.owner.address
        return BounceConnection(
            host=host,
            port=port,
            cluster_id=self.owner.cluster_id,
            secret=SECRET,
            name="reader",
            incarnation=9,
            bounce_bytes=bounce_bytes,
            shuffle=shuffle,
        )

    def close(self) -> None:
        self.owner.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("shuffle", [None, 5])
@pytest.mark.parametrize("bounce_bytes", [4096, 1 << 16, 2 << 20])
def test_a_read_through_a_bounce_buffer_brings_what_is_there(
    world: World, bounce_bytes: int, shuffle: int | None
) -> None:
    connection = world.connect(bounce_bytes, shuffle)
    handle, size = connection.open_advert(world.advert)
    assert (size, connection.peer_name) == (SIZE, "owner")
    for offset, length in ((0, SIZE), (1, 1), (4095, 4098), (SIZE - 1, 1), (17, 1_000_003)):
        into = np.zeros(length, np.uint8)
        assert connection.read(handle, offset, into) == length
        assert np.array_equal(into, world.content[offset : offset + length])
    with pytest.raises(OutOfRange):
        connection.read(handle, SIZE, bytearray(1))
    into = np.zeros(10, np.uint8)
    connection.read(handle, 5, into)
    assert np.array_equal(into, world.content[5:15])
    connection.close()
    with pytest.raises(Closed):
        connection.read(handle, 0, into)


def test_blocks_taken_from_a_connection_are_gathered_in_python_and_given_back_in_order(world: World) -> None:
    connection = world.connect(1 << 16, shuffle=2)
    handle, _ = connection.open_advert(world.advert)
    memory = np.ctypeslib.as_array((ctypes.c_ubyte * connection.bounce_bytes).from_address(connection.bounce_address))
    target, held, full = np.zeros(SIZE, np.uint8), deque[tuple[int, UnpackBlock]](), 0
    coming, at = connection.begin_read(handle, 0, SIZE), 0
    assert coming == SIZE
    while at < coming:
        taken = connection.take(at, SIZE)
        if taken is None:
            full += 1
            if len(held) > 1:
                with pytest.raises(BadArgument, match="in the order they came"):
                    connection.give_back(held[1][0])
            slot, block = held.popleft()
            block.unpack(memory, target)
            connection.give_back(slot)
        else:
            held.append(taken)
            at += taken[1].total_bytes
    for slot, block in held:
        block.unpack(memory, target)
        connection.give_back(slot)
    assert full > 0
    assert connection.remaining == 0
    assert np.array_equal(target, world.content)
    with pytest.raises(BadArgument, match="twice"):
        connection.give_back(0)
    connection.close()


OWNER = """
import sys
import numpy as np
from weft.dataplane.endpoint import Endpoint
with Endpoint.listen(secret=b"the secret of these tests", name="owner") as owner:
    with owner.register(np.ones(1 << 20, np.uint8)) as memory:
        print(owner.address[1], owner.cluster_id.hex(), memory.advertise().encode().hex(), flush=True)
        sys.stdin.read()
"""


def test_a_stopped_owner_fails_a_read_at_its_deadline_and_the_connection_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            port, cluster, advert = owner.stdout.readline().split()
            connection = BounceConnection(
                host="127.0.0.1",
                port=int(port),
                cluster_id=bytes.fromhex(cluster),
                secret=SECRET,
                name="a",
                incarnation=1,
            )
            handle, _ = connection.open_advert(Advert(bytes.fromhex(advert)))
            assert connection.read(handle, 0, bytearray(1 << 20)) == 1 << 20
            os.kill(owner.pid, signal.SIGSTOP)
            os.waitpid(owner.pid, os.WUNTRACED)
            started = time.monotonic()
            with pytest.raises(TimedOut):
                connection.read(handle, 0, bytearray(1 << 20), 300)
            assert time.monotonic() - started < 2
            with pytest.raises(Closed):
                connection.read(handle, 0, bytearray(1))
        finally:
            owner.kill()


def test_an_endpoint_that_asks_for_it_reads_through_a_bounce_buffer(world: World) -> None:
    with Endpoint.listen(secret=SECRET, name="asker", transport="tcpx") as asker:
        peer = asker.connect(world.owner.metadata)
        assert peer.transport == "tcpx"
        into = np.zeros(SIZE, np.uint8)
        assert peer.read_now(world.advert, into) == SIZE
        assert np.array_equal(into, world.content)
        parts = [np.zeros(100, np.uint8) for _ in range(50)]
        peer.readv_now([(world.advert, index * 1001, part) for index, part in enumerate(parts)])
        assert all(np.array_equal(part, world.content[i * 1001 :][:100]) for i, part in enumerate(parts))
        transfers = [peer.read(world.advert, part, offset=7) for part in parts]
        for transfer in transfers:
            transfer.wait(5_000)
        assert all(np.array_equal(part, world.content[7:107]) for part in parts)


def test_a_bounce_buffer_of_no_pages_and_a_peer_that_is_not_there_are_named() -> None:
    arguments: dict[str, Any] = {
        "host": "127.0.0.1", "port": 1, "cluster_id": bytes(16), "secret": SECRET, "name": "a", "incarnation": 1,
    }  # fmt: skip
    with pytest.raises(BadArgument, match="bounce_bytes must be a multiple of 4096"):
        BounceConnection(**arguments, bounce_bytes=100)
    with pytest.raises(Unreachable):
        BounceConnection(**arguments)
