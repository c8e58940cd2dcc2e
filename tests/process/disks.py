"""File systems of their own for tests: made where this user may mount, and taken away again."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20


def mount(*arguments: str) -> None:
    """Mounts, or skips the test with the reason why this machine does not let it."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Path]:
    """A file system at a path."""
    path.mkdir()
    mount(*arguments, str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory that is full soon."""
    with mounted(path, "-t", "tmpfs", "-o", f"size={size_bytes}", "weft-test") as made:
        yield made


@contextmanager
def breaking_disk(path: Path) -> Iterator[Path]:
    """An ext4 file system in a file, which `break_off` turns read-only under whoever has files open on it."""
    image = path.with_suffix(".image")
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(16 * MIB)
    made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this machine makes no ext4 file system: {made.stderr.strip()}")
    with mounted(path, "-o", "loop", str(image)) as disk:
        yield disk


def break_off(disk: Path) -> None:
    """Does what the kernel does when a disk fails: nothing is written from now on, though files are open."""
    mount("-o", "remount,abort", str(disk))


def fill(path: Path) -> None:
    """Writes a file until nothing more goes onto its disk."""
    for block_bytes in (65_536, 4_096, 1):
        try:
            with path.open("ab", buffering=0) as file:
                while file.write(bytes(block_bytes)) == block_bytes:
                    pass
        except OSError:
            continue
