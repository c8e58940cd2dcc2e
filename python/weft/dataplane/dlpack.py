"""A tensor's memory by DLPack: where it lies and how long it is, whatever its elements are.

NumPy takes DLPack too, but knows neither bfloat16 nor the eight-bit floats that caches are kept in, and gives what
older producers lend (an unversioned capsule) as read-only. Bytes are all a transfer needs, so the capsule is read here:
the layout is that of dlpack.h, version 1. The capsule is kept, unconsumed, for as long as its memory is in use; whoever
made it takes the tensor back when it goes.
"""

import ctypes
from typing import Any, Final, cast

from typing_extensions import Buffer

from weft.model.errors import BadArgument, NotSupported

_HOST: Final = frozenset({1, 3, 11})
"""Device types whose memory the processor reaches: plain, and pinned for CUDA or ROCm."""

_VERSION: Final = (1, 0)
_PLAIN: Final = b"dltensor"
_VERSIONED: Final = b"dltensor_versioned"
_READ_ONLY: Final = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p


class _Lent:
    """Memory that somebody else's capsule keeps in place, as NumPy takes memory that is not its own."""

    def __init__(self, capsule: object, address: int, size_bytes: int, *, read_only: bool) -> None:
        self._capsule = capsule
        self.__array_interface__ = {
            "version": 3,
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, read_only),
        }


def lent_by(tensor: Any) -> Buffer:
    """The bytes of a tensor in memory that the processor reaches, without a copy.

    Raises `NotSupported` for memory of a device, and `BadArgument` for what is not contiguous or is not lent.
    """
    import numpy as np

    device, _ = tensor.__dlpack_device__()
    if device not in _HOST:
        raise NotSupported(
            f"this tensor lives on a device of DLPack type {int(device)}, and there is no path to it here; copy it to "
            "the host first, for example with tensor.cpu()"
        )
    capsule = _capsule_of(tensor)
    if _is_valid(capsule, _VERSIONED):
        versioned = _Versioned.from_address(_pointer(capsule, _VERSIONED))
        if versioned.major != _VERSION[0]:
            raise BadArgument(
                f"this tensor is lent by DLPack {versioned.major}.{versioned.minor}, and {_VERSION[0]} is understood; "
                "pass its buffer instead, for example tensor.numpy()"
            )
        found, read_only = versioned.tensor, bool(versioned.flags & _READ_ONLY)
    elif _is_valid(capsule, _PLAIN):
        found, read_only = _Tensor.from_address(_pointer(capsule, _PLAIN)), False
    else:
        raise BadArgument(
            f"{type(tensor).__name__}.__dlpack__ gave {type(capsule).__name__}, which is no tensor to take"
        )
    size = _size_bytes(found)
    if size == 0:
        return b""
    lent = _Lent(capsule, (found.data or 0) + found.offset, size, read_only=read_only)
    return cast("Buffer", np.asarray(lent))


def _capsule_of(tensor: Any) -> object:
    try:
        try:
            return tensor.__dlpack__(max_version=_VERSION)
        except TypeError:
            # Made before versions: it takes no such argument.
            return tensor.__dlpack__()
    except (TypeError, BufferError, RuntimeError, ValueError) as error:
        raise BadArgument(f"this tensor's memory is not lent: {error}") from error


def _size_bytes(tensor: _Tensor) -> int:
    """How many bytes lie in a row. Raises `BadArgument` where they do not."""
    shape = [tensor.shape[index] for index in range(tensor.dimensions)]
    elements: int = 1
    # From the last dimension on, each stride is what lies within; a dimension of one may say anything.
    for index in reversed(range(tensor.dimensions)):
        if tensor.strides and shape[index] > 1 and tensor.strides[index] != elements and 0 not in shape:
            raise BadArgument("this tensor is not contiguous; pass tensor.contiguous(), or the parts that are")
        elements *= shape[index]
    bits = int(elements * tensor.bits * tensor.lanes)
    if bits % 8:
        raise BadArgument(f"this tensor ends within a byte: {elements} elements of {tensor.bits} bits")
    return bits // 8
