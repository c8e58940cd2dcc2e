"""Whatever a program holds its bytes in, as memory that a transfer can reach."""

from typing import Any, Final, cast

from typing_extensions import Buffer

from weft.dataplane.dlpack import lent_by
from weft.model.errors import BadArgument, NotSupported

_PLAIN: Final = frozenset({bytes, bytearray, memoryview})


def memory_of(thing: Any) -> Buffer:
    """The memory of a buffer, an array or a tensor, without a copy.

    Takes what has the buffer protocol (bytes, bytearray, memoryview, numpy, mmap, a region) and what offers DLPack in
    the host's memory (torch, jax), whatever its elements. Raises `NotSupported` for memory of a GPU and `BadArgument`
    for anything else.
    """
    if type(thing) in _PLAIN:
        return cast("Buffer", thing)
    if hasattr(thing, "__cuda_array_interface__"):
        raise NotSupported(
            "this memory is a GPU's, and there is no path to it here; copy it to the host first, for example with "
            "tensor.cpu()"
        )
    try:
        return memoryview(thing)
    except (TypeError, BufferError, ValueError):
        # A region's memory is its `buffer` where Python is older than 3.12, which asks it by itself.
        if isinstance(lent := getattr(thing, "buffer", None), memoryview):
            return lent
        if not hasattr(thing, "__dlpack__"):
            raise BadArgument(
                f"{type(thing).__name__} has no memory that can be moved; pass a buffer (bytearray, numpy, mmap) or a "
                "tensor in CPU memory"
            ) from None
    return lent_by(thing)
