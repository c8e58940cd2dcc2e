"""Endpoints of one process: registered memory read and written, by every face of a transfer."""

import asyncio
import contextlib
import gc
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.dataplane.endpoint import Advert, Endpoint, Peer
from weft.model.errors import (
    BadArgument,
    Busy,
    Cancelled,
    Closed,
    ExtentLost,
    NotSupported,
    OutOfRange,
    ReadOnly,
    TimedOut,
    Unreachable,
    WeftError,
    WrongSecret,
)

SECRET = b"the secret of these tests"
CODES = {"bad_argument", "grant_forged", "extent_lost", "out_of_range", "read_only", "wrong_cluster"}


class Pair:
    """Two endpoints that met, and the way from each to the other."""

    def __init__(self) -> None:
        self.owner = Endpoint.listen(secret=SECRET, name="owner")
        self.other = Endpoint.listen(secret=SECRET, name="other")
        self.to_owner: Peer = self.other.connect(self.owner.metadata)
        back = self.owner.accept(2_000)
        assert back is not None
        self.to_other: Peer = back


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.other.close()
    made.owner.close()


def bytes_of(length: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)


def test_a_read_and_a_write_move_bytes_between_whatever_holds_them(pair: Pair) -> None:
    for memory in (bytearray(8192), np.zeros(8192, np.uint8), mmap.mmap(-1, 8192), memoryview(bytearray(8192))):
        with pair.owner.register(memory) as registered:
            advert = registered.advertise()
            content = bytes_of(5000)
            assert pair.to_owner.write_now(advert, content, offset=100) == 5000
            assert bytes(memory[100:5100]) == content.tobytes()
            into = bytearray(5000)
            assert pair.to_owner.read_now(advert, into, offset=100) == 5000
            assert into == content.tobytes()


def test_arrays_of_any_element_type_are_their_bytes(pair: Pair) -> None:
    memory = np.arange(1000, dtype=np.float64).reshape(10, 100)
    with pair.owner.register(memory) as registered:
        into = np.empty((5, 100), dtype=np.float64)
        pair.to_owner.read_now(registered.advertise(), into, offset=4000)
    assert np.array_equal(into, memory[5:])


def test_a_tensor_by_dlpack_is_reached_without_a_copy(pair: Pair) -> None:
    class Tensor:
        def __init__(self) -> None:
            self.array = np.arange(64, dtype=np.int32)

        def __dlpack__(self, **named: Any) -> Any:
            return self.array.__dlpack__(**named)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    tensor = Tensor()
    with pair.owner.register(tensor) as registered:
        pair.to_owner.write_now(registered.advertise(), np.full(64, 7, np.int32))
    assert (tensor.array == 7).all()


def test_memory_that_has_no_path_is_refused_with_a_sentence(pair: Pair) -> None:
    class OnGpu:
        def __init__(self) -> None:
            self.__cuda_array_interface__ = {"shape": (1,), "typestr": "|u1", "data": (0, False), "version": 3}

    with pytest.raises(NotSupported, match="GPU's"):
        pair.owner.register(OnGpu())
    with pytest.raises(BadArgument, match="int has no memory"):
        pair.owner.register(5)
    with pytest.raises(BadArgument, match="not contiguous"):
        pair.owner.register(np.zeros((10, 10), np.uint8)[:, ::2])
    with pytest.raises(BadArgument, match="at least one byte"):
        pair.owner.register(b"")


def test_a_vector_moves_whole(pair: Pair) -> None:
    one, two = bytes_of(10_000, 1), bytes_of(10_000, 2)
    with pair.owner.register(one) as first, pair.owner.register(two) as second:
        a, b = first.advertise(), second.advertise()
        buffers = [bytearray(1000) for _ in range(6)]
        items = [((a, b)[index % 2], index * 1500, buffers[index]) for index in range(6)]
        assert pair.to_owner.readv_now(items) == 6000
        for index, buffer in enumerate(buffers):
            assert buffer == (one, two)[index % 2][index * 1500 :][:1000].tobytes()
        assert pair.to_owner.readv(items).wait() == 6000
        assert pair.to_owner.writev_now(items) == pair.to_owner.writev(items).wait() == 6000


def test_a_vector_with_one_bad_part_moves_nothing(pair: Pair) -> None:
    memory = bytearray(1000)
    with pair.owner.register(memory) as registered:
        advert = registered.advertise()
        items = [(advert, 0, b"x" * 500), (advert, 501, b"y" * 500)]
        with pytest.raises(OutOfRange, match=r"501\.\.1001 are outside the advert"):
            pair.to_owner.writev_now(items)
        with pytest.raises(OutOfRange):
            pair.to_owner.writev(items)
    assert memory == bytes(1000)


def test_an_advert_of_a_part_reaches_that_part_alone(pair: Pair) -> None:
    memory = bytearray(range(256))
    with pair.owner.register(memory) as registered:
        advert = registered.advertise(100, 50, writable=False)
        into = bytearray(50)
        pair.to_owner.read_now(advert, into)
        assert into == bytes(range(100, 150))
        with pytest.raises(ReadOnly):
            pair.to_owner.write_now(advert, b"x")
        with pytest.raises(OutOfRange):
            pair.to_owner.read_now(advert, into, offset=1)
        with pytest.raises(OutOfRange):
            registered.advertise(200, 57)


def test_an_advert_travels_as_bytes_and_one_that_was_altered_is_refused(pair: Pair) -> None:
    def refused(altered: bytes) -> tuple[str, Advert | None]:
        try:
            other = Advert(altered)
            pair.to_owner.write_now(other, b"here")
        except WeftError as error:
            return error.code, None
        return "", other

    memory = bytearray(100)
    with pair.owner.register(memory) as registered:
        data = registered.advertise().encode()
        advert = Advert(data)
        assert (advert.size_bytes, advert.writable, advert.owner) == (100, True, "owner")
        pair.to_owner.write_now(advert, b"here")
        for index in range(len(data)):
            altered = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
            code, other = refused(altered)
            # What only tells the holder what it holds may differ; the right does not.
            assert code in CODES or (other is not None and other.grant == advert.grant), (index, code)
            pair.to_owner.write_now(advert, b"here")
    assert memory[:4] == b"here"


def test_what_fails_names_peer_region_offset_and_reason(pair: Pair) -> None:
    memory = bytearray(100)
    registered = pair.owner.register(memory)
    advert = registered.advertise()
    registered.release()
    with pytest.raises(ExtentLost) as caught:
        pair.to_owner.read_now(advert, bytearray(10), offset=20)
    named = {"peer": "owner", "region": f"buffer-{advert.buffer:016x}", "offset": 20, "reason": "extent_lost"}
    assert caught.value.facts == named
    transfer = pair.to_owner.read(advert, bytearray(10), offset=20)
    with pytest.raises(ExtentLost) as caught:
        transfer.wait()
    assert caught.value.facts == named
    assert transfer.state == "failed"
    for _ in range(3):
        with pytest.raises(ExtentLost):
            transfer.result()


def test_a_transfer_is_polled_until_it_is_done_and_stays_so(pair: Pair) -> None:
    memory = bytes_of(1 << 20)
    into = bytearray(1 << 20)
    with pair.owner.register(memory) as registered:
        transfer = pair.to_owner.read(registered.advertise(), into)
        assert transfer.wait(5_000) == 1 << 20
        transfer.cancel()
        for _ in range(3):
            assert transfer.poll()
            assert transfer.result() == 1 << 20
    assert into == memory.tobytes()


def test_asyncio_awaits_many_transfers_at_once_in_loop_after_loop(pair: Pair) -> None:
    memory = bytes_of(1 << 20)

    async def story(seed: int) -> None:
        advert = registered.advertise()
        buffers = [bytearray(1 + (index * 997 + seed) % 5000) for index in range(300)]
        reads = [pair.to_owner.read(advert, buffer, offset=index * 1000) for index, buffer in enumerate(buffers)]
        assert await asyncio.gather(*reads) == [len(buffer) for buffer in buffers]
        for index, buffer in enumerate(buffers):
            assert buffer == memory[index * 1000 :][: len(buffer)].tobytes()
        assert await reads[0] == len(buffers[0]), "what is done can be awaited again"

    with pair.owner.register(memory) as registered:
        for seed in range(3):
            asyncio.run(story(seed))


def test_a_task_that_is_cancelled_cancels_its_transfer(pair: Pair) -> None:
    async def story() -> None:
        receive = pair.to_owner.recv(bytearray(10), tag=9)

        async def waiting() -> int:
            return await receive

        task = asyncio.ensure_future(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Cancelled):
            await receive
        assert receive.state == "cancelled"

    asyncio.run(story())


def test_a_loop_that_is_closed_leaves_no_descriptor_behind_even_when_it_was_waiting(pair: Pair) -> None:
    async def story() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pair.to_owner.recv(bytearray(10), tag=8), 0.001)

    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    asyncio.run(story())
    before = descriptors()
    for _ in range(10):
        asyncio.run(story())
    assert descriptors() <= before + 1


def test_a_wait_with_a_time_of_its_own_ends_with_it_and_the_transfer_goes_on(pair: Pair) -> None:
    into = bytearray(10)
    receive = pair.to_owner.recv(into, tag=1)
    with pytest.raises(Busy):
        receive.wait(10)
    assert not receive.poll()
    pair.to_other.send(b"0123456789", tag=1).wait()
    assert receive.wait() == 10
    assert into == b"0123456789"


def test_a_transfer_that_nobody_answers_fails_by_its_deadline(pair: Pair) -> None:
    receive = pair.to_owner.recv(bytearray(10), tag=2, timeout_ms=50)
    send = pair.to_other.send(b"x", tag=3, timeout_ms=50)
    with pytest.raises(TimedOut, match="something to be sent"):
        receive.wait(5_000)
    with pytest.raises(TimedOut, match="a receive to be posted"):
        send.wait(5_000)


def test_a_buffer_under_way_cannot_be_resized_and_can_be_after(pair: Pair) -> None:
    into = bytearray(10)
    receive = pair.to_owner.recv(into, tag=4)
    with pytest.raises(BufferError):
        into.extend(b"more")
    receive.cancel()
    with pytest.raises(Cancelled):
        receive.wait(5_000)
    into.extend(b"more")


def test_a_registered_buffer_cannot_be_resized_until_it_is_released(pair: Pair) -> None:
    memory = bytearray(10)
    registered = pair.owner.register(memory)
    with pytest.raises(BufferError):
        memory.extend(b"more")
    registered.release()
    registered.release()
    memory.extend(b"more")


def test_a_read_only_buffer_can_be_advertised_for_reading_alone(pair: Pair) -> None:
    with pair.owner.register(b"constant") as registered:
        with pytest.raises(BadArgument, match="read-only"):
            registered.advertise()
        into = bytearray(8)
        pair.to_owner.read_now(registered.advertise(writable=False), into)
    assert into == b"constant"


def test_another_secret_another_cluster_and_nobody_are_told_apart() -> None:
    with Endpoint.listen(secret=SECRET, cluster_id=bytes(16)) as owner:
        with Endpoint.listen(secret=b"another", cluster_id=bytes(16)) as other, pytest.raises(WrongSecret):
            other.connect(owner.metadata)
        metadata = owner.metadata
    with Endpoint.listen(secret=SECRET) as other, pytest.raises(Unreachable):
        other.connect(metadata)


def test_a_peer_that_was_closed_says_so(pair: Pair) -> None:
    with pair.owner.register(bytearray(10)) as registered:
        advert = registered.advertise()
        pair.to_owner.close()
        with pytest.raises(Closed):
            pair.to_owner.read_now(advert, bytearray(10))
        with pytest.raises(Closed):
            pair.to_owner.read(advert, bytearray(10))


def test_status_names_the_transport_of_each_peer_and_what_is_shared(pair: Pair) -> None:
    memory = bytearray(1000)
    with pair.owner.register(memory) as whole, pair.owner.register(memoryview(memory)[100:200]) as inside:
        inside.advertise()
        status = pair.owner.status()
        assert (status.registrations, status.backings, status.adverts) == (2, 1, 1)
        assert [peer.transport for peer in status.peers]
        del whole
