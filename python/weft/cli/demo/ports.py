"""Ports for a demo's nodes that no other demo on this machine takes meanwhile.

A node that was killed comes back at its port, which stood free until then. Two demos at once, or the tests beside one,
therefore share the nodes' range by blocks; whoever uses a block holds a name that the kernel frees when the process
ends, however it ends.
"""

import socket
from typing import Final

from weft.cli.failure import CommandFailed
from weft.model.policy import PORT_FIRST, PORT_LAST

BLOCK_PORTS: Final = 10
"""Ports in a block: more than any demo has nodes."""


class PortBlock:
    """The first block of a range of ports that nobody has; held until `close`, or the end of the process.

    Raises CommandFailed when every block is taken.
    """

    def __init__(self, lowest: int = PORT_FIRST, highest: int = PORT_LAST) -> None:
        for first in range(lowest, highest + 2 - BLOCK_PORTS, BLOCK_PORTS):
            held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # An abstract name: it belongs to the network namespace, as ports do, and leaves no file.
                held.bind(f"\0weft-demo-ports-{first}")
            except OSError:
                held.close()
                continue
            self._held, self.first, self.last = held, first, first + BLOCK_PORTS - 1
            return
        raise CommandFailed(f"other demos have all ports from {lowest} to {highest}; end one and try again")

    def flags(self, port: int | None = None) -> tuple[str, ...]:
        """What tells a node to keep to the block, or to one port of it."""
        first, last = (self.first, self.last) if port is None else (port, port)
        return ("--port-first", str(first), "--port-last", str(last))

    def close(self) -> None:
        """Lets the block go. Closing twice is harmless."""
        self._held.close()
