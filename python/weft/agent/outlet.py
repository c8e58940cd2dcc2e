"""What a node says: the line it is up with on standard output, everything else on standard error, each thing once.

A state that lasts (the coordinator is away, the cluster was destroyed) is said when it begins and when it is over, and
not at every attempt between.
"""

from collections.abc import Callable


class Outlet:
    """Two ways out, handed in, and what was last said of each lasting state."""

    def __init__(self, announce: Callable[[str], None], remark: Callable[[str], None]) -> None:
        self._announce = announce
        self._remark = remark
        self._lasting: str | None = None

    def announce(self, line: str) -> None:
        """The line others wait for."""
        self._announce(line)

    def remark(self, line: str) -> None:
        """Something worth knowing."""
        self._remark(line)

    def begin(self, state: str) -> None:
        """A state begins, or goes on."""
        if self._lasting != state:
            self._lasting = state
            self._remark(state)

    def end(self, line: str) -> None:
        """Whatever state lasted is over."""
        if self._lasting is not None:
            self._lasting = None
            self._remark(line)
