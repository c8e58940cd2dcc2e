"""The kernel on a GPU, where there is one; each test skips with the reason elsewhere."""

from typing import Any

import numpy as np
import pytest

from weft._native import UnpackBlock
from weft.dataplane import gpu
from weft.model.errors import NotSupported

pytestmark = pytest.mark.hardware


@pytest.fixture(scope="module")
def unpack() -> gpu.GpuUnpack:
    try:
        return gpu.GpuUnpack()
    except NotSupported as error:
        pytest.skip(str(error))


def pinned(unpack: gpu.GpuUnpack, size: int) -> tuple[Any, memoryview]:
    """Memory that both sides reach by one address."""
    buffer = unpack._pinned.allocate(size, stream=unpack.stream)
    return buffer, gpu._bytes_at(int(buffer.handle), size)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 511, 4096, 5000])
def test_the_gpu_moves_what_the_cpu_moves(unpack: gpu.GpuUnpack, length: int) -> None:
    random = np.random.default_rng(length)
    count, bounce_bytes = 400, 1 << 20
    places = random.permutation(count)
    fragments = [
        (int(random.integers(0, bounce_bytes - length)), length, 3 + int(place) * (length + 1)) for place in places
    ]
    target_bytes = 3 + count * (length + 1)
    block = UnpackBlock.of(fragments, bounce_bytes, target_bytes)
    source, bounce = pinned(unpack, bounce_bytes)
    into, target = pinned(unpack, target_bytes)
    bounce[:] = random.integers(0, 256, bounce_bytes, dtype=np.uint8).tobytes()
    target[:] = b"\xee" * target_bytes
    gathering = unpack.launch([block], int(source.handle), bounce_bytes, int(into.handle), target_bytes)
    gathering.wait(10_000)
    expected = bytearray(b"\xee" * target_bytes)
    block.unpack(bounce, expected)
    assert bytes(target) == bytes(expected)
