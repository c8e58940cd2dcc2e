"""One process a journal, by a lock the kernel drops with the process: `kill -9` leaves nothing to clean up."""

import fcntl
import os
from pathlib import Path

from weft.model.errors import JournalFailed, JournalLocked
from weft.model.remedy import with_remedy


class ProcessLock:
    """Held from `take` to `release`. The file stays: removing it would let two processes lock two files."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "ProcessLock":
        """Take the lock and note who holds it. Raises `JournalLocked` naming the file and the other process."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise JournalLocked(
                f"{path} is held by process {pid}, another coordinator on the same data directory; "
                "stop that one, or give this one a directory of its own with --data-dir",
                path=str(path),
                pid=pid,
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise _refused(path, error) from error
        return cls(path, descriptor)

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._descriptor)


def _refused(path: Path, error: OSError) -> JournalFailed:
    return JournalFailed(with_remedy(f"cannot write {path}: {error.strerror}", error.errno), path=str(path))
