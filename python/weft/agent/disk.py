"""The few things a store asks of a disk, as a port, so that a test can have any of them fail.

Each of them either happened or raised OSError; what a store makes of that is the store's business.
"""

import os
from pathlib import Path
from typing import Final, Protocol

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Disk(Protocol):
    """What may fail."""

    def create(self, path: Path) -> int:
        """Make an empty file that was not there; its descriptor."""
        ...

    def write(self, descriptor: int, data: memoryview) -> None:
        """Add all of this at the end."""
        ...

    def sync(self, descriptor: int) -> None:
        """Return when what was written survives a power cut."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, at once and whole."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder survive a power cut."""
        ...

    def remove(self, path: Path) -> None:
        """Take a file away; one that is not there stays away."""
        ...

    def read(self, path: Path, offset: int, into: memoryview) -> int:
        """Fill `into` from a place in a file; how many bytes there were."""
        ...

    def free_bytes(self, folder: Path) -> int:
        """How much more the disk under a folder takes from this user."""
        ...


class RealDisk:
    """The machine's."""

    def create(self, path: Path) -> int:
        """Make an empty file."""
        return os.open(path, _CREATE, 0o600)

    def write(self, descriptor: int, data: memoryview) -> None:
        """Add all of this at the end. The kernel may take less than it is given, as just before the disk is full."""
        while data:
            data = data[os.write(descriptor, data) :]

    def sync(self, descriptor: int) -> None:
        """To the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """To the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Take a file away."""
        path.unlink(missing_ok=True)

    def read(self, path: Path, offset: int, into: memoryview) -> int:
        """Fill `into`. Opened anew each time: a file that was replaced meanwhile is the same object, or it is gone."""
        done = 0
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while done < len(into) and (count := file.readinto(into[done:])):
                done += count
        return done

    def free_bytes(self, folder: Path) -> int:
        """What an ordinary user may still write."""
        seen = os.statvfs(folder)
        return seen.f_bavail * seen.f_frsize
