"""The GPU's text without a GPU: run on this CPU under sanitizers beside the CPU's unpack, compiled for every target."""

import importlib.util
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from weft._native import UnpackBlock
from weft.dataplane import gpu
from weft.model.errors import BadArgument, NotSupported

HERE = Path(__file__).parent
SECONDS_MAX = 60
ALIGNMENTS = 16 * 16 * 81
COMPILER = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.core") is not None
Case = tuple[bytes, int, bytes, int, int, int, int]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel as a C program with one thread after the other."""
    built = tmp_path_factory.mktemp("device") / "unpack_host"
    flags = ["-O1", "-g", "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["cc", *flags, *sanitizers, f'-DUNPACK_TEXT="{gpu.TEXT}"', str(HERE / "device/unpack_host.c")]
    done = subprocess.run(
        [*command, "-o", str(built)], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    if "cannot find -lasan" in done.stderr or "cannot find libasan" in done.stderr:
        pytest.skip("this C compiler has no address sanitizer")
    assert done.returncode == 0, done.stderr
    return built


def run(program: Path, cases: list[Case]) -> list[tuple[int, bytes]]:
    text = b"".join(
        struct.pack("<6Q", len(fragments) // 16, bounce_bytes, target_bytes, tiles, blocks, threads)
        + fragments
        + bounce
        for fragments, bounce_bytes, bounce, target_bytes, tiles, blocks, threads in cases
    )
    done = subprocess.run([str(program)], input=text, capture_output=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    results, at = [], 0
    for case in cases:
        (refused,) = struct.unpack_from("<Q", done.stdout, at)
        results.append((refused, done.stdout[at + 8 : at + 8 + case[3]]))
        at += 8 + case[3]
    return results


def random_block(random: np.random.Generator) -> tuple[UnpackBlock, bytes]:
    """Shuffled, misaligned, with gaps; a few fragments of several tiles among small ones."""
    fragments, at = [], int(random.integers(0, 40))
    bounce_bytes = int(random.integers(2, 4000)) * 16
    for _ in range(int(random.integers(0, 60))):
        longest = bounce_bytes if random.random() < 0.1 else 300
        length = int(random.integers(1, min(longest, bounce_bytes) + 1))
        fragments.append((int(random.integers(0, bounce_bytes - length + 1)), length, at))
        at += length + int(random.integers(0, 3)) * int(random.integers(0, 40))
    random.shuffle(fragments)
    block = UnpackBlock.of([(int(s), int(n), int(t)) for s, n, t in fragments], bounce_bytes, at)
    return block, random.integers(0, 256, bounce_bytes, dtype=np.uint8).tobytes()


def test_the_kernel_moves_what_the_cpu_moves_and_touches_nothing_else(program: Path) -> None:
    random = np.random.default_rng(7)
    cases: list[Case] = []
    blocks = [random_block(random) for _ in range(150)]
    most = [(int(random.integers(0, 60_000)), 499, int(place) * 501 + 3) for place in random.permutation(2048)]
    blocks.append((UnpackBlock.of(most, 1 << 16, 2048 * 501 + 3), random.integers(0, 256, 1 << 16, np.uint8).tobytes()))
    for block, bounce in blocks:
        tiles = max(1, -(-block.longest // gpu.TILE_BYTES))
        grid, threads = int(random.integers(1, 5)), int(random.choice([32, 64, 256]))
        cases.append((block.encode()[64:], block.bounce_bytes, bounce, block.target_bytes, tiles, grid, threads))
    for (block, bounce), (refused, target) in zip(blocks, run(program, cases), strict=True):
        expected = bytearray(b"\xee" * block.target_bytes)
        block.unpack(bounce, expected)
        assert refused == 0
        assert target == expected


def test_every_alignment_of_source_and_target_is_right_to_the_byte(program: Path) -> None:
    done = subprocess.run(
        [str(program), "alignments"], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == ALIGNMENTS


def test_the_kernel_counts_what_lies_outside_and_leaves_it_alone(program: Path) -> None:
    outside = [(60, 5, 0), (0, 8, 93), (0, 1, 2**64 - 1), (2**32 - 1, 2**32 - 1, 0), (0, 1000, 0)]
    inside = [(3, 8, 50)]
    fragments = b"".join(struct.pack("<IIQ", *fragment) for fragment in outside + inside)
    bounce = bytes(range(64))
    [(refused, target)] = run(program, [(fragments, 64, bounce, 100, 1, 1, 32)])
    expected = bytearray(b"\xee" * 100)
    expected[50:58] = bounce[3:11]
    assert (refused, target) == (len(outside), bytes(expected))


@pytest.mark.skipif(not COMPILER, reason="the GPU compiler is not installed: pip install weft[gpu]")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100"])
def test_the_text_compiles_for(architecture: str) -> None:
    cubin = gpu.compile_unpack(architecture)
    assert cubin[:4] == b"\x7fELF"
    assert b"weft_unpack" in cubin


@pytest.mark.skipif(not COMPILER, reason="the GPU compiler is not installed: pip install weft[gpu]")
def test_an_architecture_that_does_not_exist_is_named() -> None:
    with pytest.raises(NotSupported, match="does not compile for sm_11"):
        gpu.compile_unpack("sm_11")


def test_memory_that_is_not_a_device_s_or_not_contiguous_is_refused() -> None:
    class Array:
        def __init__(self, **face: object) -> None:
            self.__cuda_array_interface__ = {"data": (4096, False), "shape": (3, 5), "typestr": "<f4", **face}

    assert gpu.device_memory(Array()) == (4096, 60)
    assert gpu.device_memory(Array(strides=(20, 4))) == (4096, 60)
    assert gpu.device_memory((64, 128)) == (64, 128)
    for target in (bytearray(8), Array(data=(4096, True)), Array(strides=(40, 4))):
        with pytest.raises(BadArgument):
            gpu.device_memory(target)
