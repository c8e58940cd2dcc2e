"""Tensors by DLPack, in every verb: of this NumPy, of older producers, and of elements that NumPy has no name for."""

import ctypes
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from weft.dataplane.dlpack import lent_by
from weft.dataplane.endpoint import Endpoint, Peer
from weft.model.errors import BadArgument, NotSupported

SECRET = b"the secret of these tests"
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Lender:
    """An array that offers nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
        return self.array.__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class OlderLender(Lender):
    """The same as it was before versions."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        return self.array.__dlpack__()


class HandMade:
    """A tensor written down field by field as dlpack.h has them: what no NumPy would lend."""

    def __init__(
        self,
        content: bytearray,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        *,
        bits: int = 8,
        lanes: int = 1,
        device: int = 1,
        offset: int = 0,
        major: int | None = None,
        flags: int = 0,
    ) -> None:
        self.content, self.device = content, device
        base = ctypes.addressof((ctypes.c_char * len(content)).from_buffer(content))
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        at = 0 if self._strides is None else ctypes.addressof(self._strides)
        # Four is bfloat.
        tensor = b"".join(
            [
                base.to_bytes(8, "little"),
                device.to_bytes(4, "little"),
                bytes(4),
                len(shape).to_bytes(4, "little"),
                bytes([4, bits]),
                lanes.to_bytes(2, "little"),
                ctypes.addressof(self._shape).to_bytes(8, "little"),
                at.to_bytes(8, "little"),
                offset.to_bytes(8, "little"),
            ]
        )
        self._name = b"dltensor" if major is None else b"dltensor_versioned"
        head = b"" if major is None else major.to_bytes(4, "little") + bytes(20) + flags.to_bytes(8, "little")
        self._record = ctypes.create_string_buffer(head + tensor)

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
        return _new(ctypes.addressof(self._record), self._name, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)


@pytest.fixture
def met() -> Iterator[tuple[Endpoint, Peer, Peer]]:
    with Endpoint.listen(secret=SECRET, name="owner") as owner, Endpoint.listen(secret=SECRET, name="other") as other:
        to_owner = other.connect(owner.metadata)
        to_other = owner.accept(2_000)
        assert to_other is not None
        yield owner, to_owner, to_other


@pytest.mark.parametrize("made", [Lender, OlderLender])
def test_a_tensor_is_registered_read_written_sent_and_received(
    met: tuple[Endpoint, Peer, Peer], made: type[Lender]
) -> None:
    owner, to_owner, to_other = met
    theirs, ours = made(np.arange(24, dtype=np.float32).reshape(4, 6)), made(np.zeros((4, 6), np.float32))
    with owner.register(theirs) as registered:
        advert = registered.advertise()
        assert advert.size_bytes == 96
        assert to_owner.read_now(advert, ours) == 96
        assert (ours.array == theirs.array).all()
        to_owner.write(advert, made(np.full((4, 6), 7, np.float32))).wait()
        assert (theirs.array == 7).all()
        into = made(np.zeros((6,), np.float32))
        assert to_owner.readv_now([(advert, 24, into)]) == 24
        assert (into.array == 7).all()
    received = to_other.recv(ours, tag=3)
    to_owner.send(made(np.full((4, 6), 9, np.float32)), tag=3).wait()
    assert received.wait() == 96
    assert (ours.array == 9).all()


@pytest.mark.parametrize("major", [None, 1])
def test_elements_that_numpy_has_no_name_for_are_their_bytes(
    met: tuple[Endpoint, Peer, Peer], major: int | None
) -> None:
    owner, to_owner, _ = met
    content = bytearray(range(64))
    with owner.register(HandMade(content, (2, 8), bits=16, offset=32, major=major)) as registered:
        into = HandMade(bytearray(32), (16,), bits=16, major=major)
        assert to_owner.read_now(registered.advertise(), into) == 32
        assert into.content == content[32:]


def test_a_tensor_that_may_only_be_read_is_advertised_for_reading_and_not_read_into(
    met: tuple[Endpoint, Peer, Peer],
) -> None:
    owner, to_owner, _ = met
    constant = HandMade(bytearray(b"constant"), (8,), major=1, flags=1)
    with owner.register(constant) as registered:
        with pytest.raises(BadArgument, match="read-only"):
            registered.advertise()
        into = bytearray(8)
        to_owner.read_now(registered.advertise(writable=False), into)
        assert into == b"constant"
        with pytest.raises(BadArgument, match="read-only"):
            to_owner.read_now(registered.advertise(writable=False), constant)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((2, 3), (3, 1)), ((2, 3), None), ((1, 6), (99, 1)), ((6, 1, 1), (1, 5, 5)), ((), None)],
)
def test_what_lies_in_a_row_is_taken_whatever_its_strides_say_of_dimensions_of_one(
    shape: Sequence[int], strides: Sequence[int] | None
) -> None:
    size = int(np.prod(shape))
    assert bytes(memoryview(lent_by(HandMade(bytearray(b"abcdef"), shape, strides)))) == b"abcdef"[:size]


@pytest.mark.parametrize("strides", [(1, 2), (4, 1), (-3, 1), (0, 1)])
def test_what_does_not_lie_in_a_row_is_refused_with_the_remedy(strides: Sequence[int]) -> None:
    with pytest.raises(BadArgument, match=r"contiguous\(\)"):
        lent_by(HandMade(bytearray(16), (2, 3), strides))


def test_what_cannot_be_taken_is_refused_with_a_sentence() -> None:
    with pytest.raises(NotSupported, match=r"DLPack type 2.*tensor\.cpu\(\)"):
        lent_by(HandMade(bytearray(8), (8,), device=2))
    with pytest.raises(BadArgument, match=r"DLPack 9\.0"):
        lent_by(HandMade(bytearray(8), (8,), major=9))
    with pytest.raises(BadArgument, match="within a byte"):
        lent_by(HandMade(bytearray(8), (3,), bits=4))

    class Keeps(Lender):
        def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
            raise BufferError("it requires a gradient")

    with pytest.raises(BadArgument, match="it requires a gradient"):
        lent_by(Keeps(None))

    class Lies(Lender):
        def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
            return b"a tensor"

    with pytest.raises(BadArgument, match="gave bytes"):
        lent_by(Lies(None))


def test_memory_pinned_for_a_gpu_is_the_hosts() -> None:
    assert bytes(memoryview(lent_by(HandMade(bytearray(b"pinned"), (6,), device=3)))) == b"pinned"


def test_a_tensor_of_nothing_cannot_be_registered(met: tuple[Endpoint, Peer, Peer]) -> None:
    with pytest.raises(BadArgument, match="at least one byte"):
        met[0].register(HandMade(bytearray(1), (0, 5), (7, 1)))


def test_the_lender_has_its_tensor_back_once_it_is_released_and_not_before(met: tuple[Endpoint, Peer, Peer]) -> None:
    back: list[str] = []

    class Memory(bytearray):
        def __del__(self) -> None:
            back.append("back")

    array = np.frombuffer(Memory(b"here"), np.uint8)
    registered = met[0].register(Lender(array))
    del array
    gc.collect()
    advert, into = registered.advertise(), bytearray(4)
    met[1].read_now(advert, into)
    assert (into, back) == (b"here", [])
    registered.release()
    gc.collect()
    assert back == ["back"]


def test_a_torch_tensor_of_any_element_type_is_reached_where_it_lies(met: tuple[Endpoint, Peer, Peer]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; NumPy's tensors stand in for its")
    owner, to_owner, _ = met
    for kind in (torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int64, torch.bool):
        theirs, ours = torch.ones(4, 8, dtype=torch.float32).to(kind), torch.zeros(4, 8).to(kind)
        with owner.register(theirs) as registered:
            assert to_owner.read_now(registered.advertise(), ours) == theirs.nbytes
        assert ours.to(torch.float32).equal(torch.ones(4, 8))
    with pytest.raises(BadArgument, match="contiguous"):
        owner.register(torch.zeros(4, 8).t())
    with pytest.raises(BadArgument, match="detach"):
        owner.register(torch.nn.Parameter(torch.zeros(3)))
