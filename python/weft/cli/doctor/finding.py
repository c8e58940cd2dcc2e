"""A finding: one thing the doctor looked at, how it stands, and where that is not well, what to do about it."""

from typing import Literal

from msgspec import Struct

State = Literal["ok", "limited", "missing"]


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one thing stands on this machine.

    `needed` marks what Weft cannot do without: a finding that is needed and missing makes `weft doctor` exit with 1.
    """

    name: str
    state: State
    found: str
    meaning: str = ""
    remedy: str = ""
    needed: bool = False

    @property
    def blocks(self) -> bool:
        """Whether Weft cannot work here before this is mended."""
        return self.needed and self.state == "missing"


def ok(name: str, found: str, *, needed: bool = False) -> Finding:
    """A thing that is as it should be."""
    return Finding(name=name, state="ok", found=found, needed=needed)


def limited(name: str, found: str, *, meaning: str, remedy: str) -> Finding:
    """A thing that works, with less than it could have."""
    return Finding(name=name, state="limited", found=found, meaning=meaning, remedy=remedy)


def missing(name: str, found: str, *, meaning: str, remedy: str, needed: bool = False) -> Finding:
    """A thing that is not there."""
    return Finding(name=name, state="missing", found=found, meaning=meaning, remedy=remedy, needed=needed)
