"""What to do about a disk that refuses: one clause for each way it does, to be put behind the sentence that says so."""

import errno
from collections.abc import Mapping
from typing import Final

_REMEDIES: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "free some room on that disk, and it goes on by itself",
    errno.EDQUOT: "raise this user's quota on that disk or free some room, and it goes on by itself",
    errno.EROFS: "that disk is read-only: its system log says why; make it writable, then start this again",
    errno.EACCES: "let this process's user write there, or choose another directory with --data-dir",
    errno.EPERM: "let this process's user write there, or choose another directory with --data-dir",
    errno.EIO: "that disk fails: its system log says how; move the directory to another one before it is lost",
}


def remedy(number: int | None) -> str:
    """What to do, by the number of the system's error; empty where nothing better is known than the error itself."""
    return _REMEDIES.get(number, "")


def with_remedy(sentence: str, number: int | None) -> str:
    """A sentence, and behind it what to do."""
    advice = remedy(number)
    return f"{sentence}; {advice}" if advice else sentence
