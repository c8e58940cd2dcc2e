"""What stands before several simulated coordinators: it sends everybody to the one that says that it is ready.

It asks each of them once a second, so for a while it sends people to one that is gone, or writes no more.
"""

from collections.abc import Sequence
from typing import Final

from weft.testing.host import PLACE, Host
from weft.testing.loop import SimulatedLoop

_CHECK_S: Final = 1.0


class Balancer:
    """Chooses by what it saw last, and stays with whom it chose for as long as that one is ready."""

    def __init__(self, hosts: Sequence[Host], loop: SimulatedLoop) -> None:
        self._hosts = hosts
        self._loop = loop
        self._chosen = hosts[0]
        self._due_s = 0.0

    def route(self, target: str) -> str:
        """Who answers at an address now."""
        if target != PLACE:
            return target
        if self._loop.time() >= self._due_s:
            self._due_s = self._loop.time() + _CHECK_S
            ready = [host for host in self._hosts if _is_ready(host)]
            if ready and self._chosen not in ready:
                self._chosen = ready[0]
        return self._chosen.place


def _is_ready(host: Host) -> bool:
    """What GET /ready says of who writes; one that is paused says nothing."""
    coordinator, process = host.coordinator, host.process
    if coordinator is None or process is None or process.paused or not host.is_serving:
        return False
    return coordinator.writer.is_writing
