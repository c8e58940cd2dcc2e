"""memcached as a store of pages: `get` of a value of that size, sixteen keys in one `get`, `set` for a write."""

import os
from collections.abc import Callable

from stores import Connection, Operation, free_port, key, keys, run
from timing import FILLED


def calls(connection: Connection, operation: Operation, value: bytes) -> Callable[[int], None]:
    size = len(value)

    def store(name: bytes) -> list[bytes]:
        return [b"set %s 0 0 %d\r\n" % (name, size), value, b"\r\n"]

    for name in keys(operation):
        connection.ask(store(name), 8)
        assert bytes(connection.answer[:6]) == b"STORED", bytes(connection.answer[:80])
    if operation.kind == "write":
        return lambda index: connection.ask(store(key(operation, operation.offsets(index)[0])), 8)
    head = len(b"VALUE %s 0 %d\r\n" % (key(operation, 0), size))
    answer_bytes = (head + size + 2) * operation.ranges + 5

    def call(index: int) -> None:
        offsets = operation.offsets(index)
        asked = b"get " + b" ".join([key(operation, offset) for offset in offsets]) + b"\r\n"
        connection.ask([asked], answer_bytes, offsets[0])

    call(0)
    assert connection.answer[head] == FILLED, "what was got is not what was set"
    return call


if __name__ == "__main__":
    port = free_port()
    program = os.environ.get("PEERS_MEMCACHED", "memcached")
    # Values of 64 MiB need room to say so; one thread, as one core serves one client.
    user = ["-u", "root"] if os.geteuid() == 0 else []
    run([program, *user, "-l", "127.0.0.1", "-p", str(port), "-m", "1024", "-I", "128m", "-t", "1"], port, calls)
