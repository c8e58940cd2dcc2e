"""The GPU's unpack: fragments of a bounce buffer gathered into a device's memory by one kernel.

    unpack = GpuUnpack()
    with GpuReader(connection, unpack) as reader:       # a `BounceConnection`
        reader.read(handle, 0, tensor)                  # anything with `__cuda_array_interface__`

The kernel is one CUDA C text, `unpack.cu` beside this file, compiled for the device that is there when first needed.
It needs `pip install weft[gpu]` (cuda-core, NVRTC) to compile and a driver to run; nothing else of Weft needs either.
docs/tcpx.md says what was tried on which hardware.
"""

import ctypes
import importlib
import time
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from weft._native import BounceConnection, UnpackBlock
from weft.model.errors import BadArgument, NotSupported, TimedOut
from weft.model.policy import transfer_ms_max

TEXT: Final = Path(__file__).with_name("unpack.cu")
HEAD_BYTES: Final = 64
"""What precedes a block's fragments."""
TILE_BYTES: Final = 4096
"""What one warp moves of one fragment."""
THREADS: Final = 256
"""Threads of a block; eight warps share nothing, so any multiple of 32 would do."""
WARPS: Final = THREADS // 32
GRID_MAX: Final = 128
"""Most blocks of a launch: four each on 32 multiprocessors. A network brings a fortieth of what a whole GPU could
gather; the rest of it belongs to whoever computes."""


@cache
def compile_unpack(architecture: str) -> bytes:
    """The kernel for `architecture` ("sm_90") as a cubin; no GPU is needed. Raises `NotSupported` without the extra."""
    core = _core()
    try:
        options = core.ProgramOptions(arch=architecture, std="c++17")
        return bytes(core.Program(TEXT.read_text(encoding="ascii"), "c++", options).compile("cubin").code)
    except Exception as error:
        raise NotSupported(f"unpack.cu does not compile for {architecture}: {error}") from error


class Gathering:
    """One launch under way. Its bounce slots may be given back once it is done."""

    def __init__(self, event: Any, keep: object, counter: Any) -> None:
        self._event = event
        self._keep = keep
        self._counter = counter

    @property
    def done(self) -> bool:
        """Whether all of it is in the target."""
        return bool(self._event.is_done)

    @property
    def refused(self) -> int:
        """Fragments the kernel found outside of its memory, once it is done. Checked blocks have none."""
        return int.from_bytes(self._counter, "little")

    def wait(self, timeout_ms: int | None = None) -> None:
        """Returns when it is done. Raises `TimedOut`, and `BadArgument` if fragments were refused."""
        timeout_ms = transfer_ms_max(0) if timeout_ms is None else timeout_ms
        deadline = time.monotonic() + timeout_ms / 1000
        while not self.done:
            if time.monotonic() > deadline:
                raise TimedOut(f"the GPU did not gather a block within {timeout_ms} ms; is it hung?")
            time.sleep(0)
        if self.refused:
            raise BadArgument(f"the GPU refused {self.refused} fragments: they lie outside of the memory it was given")


class GpuUnpack:
    """The kernel, loaded on one device, and a stream of its own. Raises `NotSupported` where there is no GPU."""

    def __init__(self, device: int = 0, grid_max: int = GRID_MAX) -> None:
        core = _core()
        try:
            self._device = core.Device(device)
            self._device.set_current()
            self._stream = self._device.create_stream()
            major, minor = self._device.compute_capability
        except Exception as error:
            raise NotSupported(f"there is no GPU {device} to unpack with: {error}") from error
        architecture = f"sm_{major}{minor}"
        code = core.ObjectCode.from_cubin(compile_unpack(architecture), name="weft_unpack")
        self._kernel = code.get_kernel("weft_unpack")
        self._pinned = core.LegacyPinnedMemoryResource()
        self._grid_max = grid_max
        self.architecture = architecture

    @property
    def stream(self) -> Any:
        """What the launches run on, for whoever wants to order work behind them."""
        return self._stream

    def launch(
        self, blocks: Sequence[UnpackBlock], bounce: int, bounce_bytes: int, target: int, target_bytes: int
    ) -> Gathering:
        """Gathers `blocks`, all of one bounce buffer and one target, by their device addresses, in one launch."""
        for block in blocks:
            if block.bounce_bytes != bounce_bytes or block.target_bytes != target_bytes:
                raise BadArgument("a block was checked against other memory than it is to be unpacked with")
        if bounce % 16:
            raise BadArgument("bounce must be aligned to 16 bytes; the kernel reads it in such units")
        fragments = b"".join(block.encode()[HEAD_BYTES:] for block in blocks)
        count = len(fragments) // 16
        longest = max((block.longest for block in blocks), default=0)
        tiles = max(1, -(-longest // TILE_BYTES))
        core, numpy = _core(), importlib.import_module("numpy")
        # A context belongs to the thread that made it current, and this may be another one.
        self._device.set_current()
        # Fragments and the counter lie in pinned memory, which the kernel reads and writes where it is: for 32 KiB read
        # once that is quicker than a copy before the launch.
        pinned = self._pinned.allocate(max(16, len(fragments)) + 16, stream=self._stream)
        room = _bytes_at(int(pinned.handle), pinned.size)
        room[:16] = bytes(16)
        room[16 : 16 + len(fragments)] = fragments
        if count:
            config = core.LaunchConfig(grid=min(self._grid_max, -(-count * tiles // WARPS)), block=THREADS)
            core.launch(
                self._stream,
                config,
                self._kernel,
                int(pinned.handle) + 16,
                numpy.uint32(count),
                numpy.uint32(tiles),
                bounce,
                numpy.uint64(bounce_bytes),
                target,
                numpy.uint64(target_bytes),
                int(pinned.handle),
            )
        return Gathering(self._stream.record(), pinned, room[:4])

    def fill_zero(self, target: int, target_bytes: int) -> None:
        """Zeros over all of the target, in order with the launches."""
        _check(_driver().cuMemsetD8Async(target, 0, target_bytes, self._stream.handle), "filling with zeros")


class GpuReader:
    """Reads of a `BounceConnection` straight into a device's memory. One thread uses it at a time.

    The bounce buffer is registered with the driver, and the kernel gathers from it across the bus: no second copy.
    """

    def __init__(self, connection: BounceConnection, unpack: GpuUnpack) -> None:
        self._connection = connection
        self._unpack = unpack
        driver = _driver()
        address, size = connection.bounce_address, connection.bounce_bytes
        mapped = driver.CU_MEMHOSTREGISTER_DEVICEMAP
        _check(driver.cuMemHostRegister(address, size, mapped), "registering the bounce buffer")
        self._bounce = int(_check(driver.cuMemHostGetDevicePointer(address, 0), "mapping the bounce buffer"))
        self._abandoned: list[Gathering] = []
        self._open = True

    def read(self, handle: int, offset: int, target: object, timeout_ms: int | None = None) -> int:
        """Fills `target` (`__cuda_array_interface__`, or address and bytes). Returns how many bytes it has."""
        address, size = device_memory(target)
        timeout_ms = transfer_ms_max(size) if timeout_ms is None else timeout_ms
        deadline = time.monotonic() + timeout_ms / 1000

        def rest_ms() -> int:
            return max(1, int((deadline - time.monotonic()) * 1000))

        coming = self._connection.begin_read(handle, offset, size, timeout_ms)
        held: deque[tuple[int, Gathering]] = deque()
        if coming == 0:
            self._unpack.fill_zero(address, size)
            self._unpack.launch([], self._bounce, self._connection.bounce_bytes, address, size).wait(rest_ms())
            return size
        at = 0
        try:
            while at < coming:
                taken = self._connection.take(at, size, rest_ms())
                if taken is None:
                    # Full: the peer waits until the oldest block is gathered.
                    self._finish(held, rest_ms())
                    continue
                slot, block = taken
                held.append(
                    (slot, self._unpack.launch([block], self._bounce, self._connection.bounce_bytes, address, size))
                )
                at += block.total_bytes
                while held and held[0][1].done:
                    self._finish(held, rest_ms())
            while held:
                self._finish(held, rest_ms())
        except BaseException:
            # What was not gathered may still be read by the kernel: nothing may be received over it, and what the
            # launches use lives on with this reader.
            self._connection.close()
            self._abandoned.extend(gathering for _, gathering in held)
            raise
        return size

    def _finish(self, held: deque[tuple[int, Gathering]], timeout_ms: int) -> None:
        slot, gathering = held[0]
        gathering.wait(timeout_ms)
        self._connection.give_back(slot)
        held.popleft()

    def close(self) -> None:
        """Takes the bounce buffer from the driver. Twice is once."""
        if self._open:
            self._open = False
            _check(_driver().cuMemHostUnregister(self._connection.bounce_address), "releasing the bounce buffer")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def device_memory(target: object) -> tuple[int, int]:
    """Address and size of contiguous, writable device memory. Raises `BadArgument` for anything else."""
    if isinstance(target, tuple):
        address, size = target
        return int(address), int(size)
    face = getattr(target, "__cuda_array_interface__", None)
    if not isinstance(face, dict):
        raise BadArgument("the target is no device memory; pass an object with __cuda_array_interface__")
    address, readonly = face["data"]
    item = int(face["typestr"][2:])
    size = item
    for extent in face["shape"]:
        size *= extent
    if readonly:
        raise BadArgument("the target is read-only; pass memory that can be written")
    strides, expected = face.get("strides"), item
    for extent, stride in zip(reversed(face["shape"]), reversed(strides or ()), strict=False):
        if extent > 1 and stride != expected:
            raise BadArgument("the target is not contiguous; pass a contiguous one")
        expected *= extent
    return int(address), size


def _bytes_at(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


@cache
def _core() -> Any:
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "Program") and hasattr(module, "launch"):
            return module
    raise NotSupported("GPU unpack needs cuda-core and NVRTC; pip install weft[gpu]")


@cache
def _driver() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NotSupported("GPU unpack needs cuda-bindings; pip install weft[gpu]") from error


def _check(result: Any, doing: str) -> Any:
    """What a driver call returned beside its status. Raises `NotSupported` with the driver's word for it."""
    status, *values = result
    if int(status) != 0:
        raise NotSupported(f"{doing}: the driver says {getattr(status, 'name', status)}")
    return values[0] if values else None
