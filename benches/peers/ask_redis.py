"""redis as a store of pages: GET of a value of that size, sixteen of them pipelined, SET for a write."""

import os
from collections.abc import Callable

from stores import Connection, Operation, free_port, key, keys, run
from timing import FILLED


def calls(connection: Connection, operation: Operation, value: bytes) -> Callable[[int], None]:
    size = len(value)

    def store(name: bytes) -> list[bytes]:
        return [b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(name), name, size), value, b"\r\n"]

    def fetch(name: bytes) -> bytes:
        return b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name)

    for name in keys(operation):
        connection.ask(store(name), 5)
        assert bytes(connection.answer[:5]) == b"+OK\r\n", bytes(connection.answer[:80])
    if operation.kind == "write":
        return lambda index: connection.ask(store(key(operation, operation.offsets(index)[0])), 5)
    head = b"$%d\r\n" % size
    answer_bytes = (len(head) + size + 2) * operation.ranges

    def call(index: int) -> None:
        offsets = operation.offsets(index)
        asked = b"".join([fetch(key(operation, offset)) for offset in offsets])
        connection.ask([asked], answer_bytes, offsets[0])

    call(0)
    assert connection.answer[len(head)] == FILLED, "what was got is not what was set"
    return call


if __name__ == "__main__":
    port = free_port()
    program = os.environ.get("PEERS_REDIS", "redis-server")
    run([program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], port, calls)
