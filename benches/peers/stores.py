"""What the two stores' programs share: a Python socket without a client library between, and a server that is up soon.

They are request and reply, not one-sided. A value for every piece of 64 MiB, got into as many places of a buffer
that is there already: a single hot value would never leave the cache on either side, and nobody else is measured
like that.
"""

import socket
import time
from collections.abc import Callable

from timing import FILLED, START_SECONDS_MAX, WALK_BYTES, Operation, daemon, finish, measure, operations

ROOM_BYTES = WALK_BYTES + (1 << 20)


class Connection:
    """One connection with a buffer for answers."""

    def __init__(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS_MAX)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        # A socket with a time-out is polled before every call; blocking ones are what a caller in a hurry uses.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = memoryview(bytearray(ROOM_BYTES))

    def ask(self, parts: list[bytes], answer_bytes: int, at: int = 0) -> None:
        """Sends, and receives an answer whose length is known, from `at` of the buffer on."""
        for part in parts:
            self._socket.sendall(part)
        got, end = at, at + answer_bytes
        while got < end:
            more = self._socket.recv_into(self.answer[got:end])
            assert more, "the server closed"
            got += more


def key(operation: Operation, offset: int) -> bytes:
    """The key of one piece; all of one length, so that every answer is."""
    return b"k%08d.%05d" % (operation.size_bytes, offset // operation.size_bytes)


def keys(operation: Operation) -> list[bytes]:
    """Every piece's."""
    return [key(operation, offset) for offset in range(0, WALK_BYTES, operation.size_bytes)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def run(command: list[str], port: int, make: Callable[[Connection, Operation, bytes], Callable[[int], None]]) -> None:
    """Starts the server, measures each operation with the call that `make` gives, and ends both."""
    wanted = operations()
    server = daemon(command)
    try:
        connection = Connection(port)
        results = {}
        for operation in wanted:
            value = bytes([FILLED]) * operation.size_bytes
            results[operation.name] = measure(operation, make(connection, operation, value))
    finally:
        server.kill()
        server.wait(timeout=START_SECONDS_MAX)
    finish(results)
