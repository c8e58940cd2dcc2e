"""A load generator: so many connections, each with one request under way, for so long. Prints JSON.

    python -m benches.load PORT CONNECTIONS SECONDS heartbeat|look_up|register

No pipelining: a connection sends its next request when it has the whole answer to the last. Answers are not decoded,
only counted, so that the generator stays the lighter half of the two processes that share the machine.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

TOKEN = "a-token-that-only-this-benchmark-uses"
HEARTBEAT = json.dumps(
    {
        "timestamp": "2025-09-30T22:00:00Z",
        "pools": [
            {
                "pool_id": "pool-0",
                "ready": True,
                "draining": False,
                "slots_free": 3,
                "slots_total": 4,
                "vram_free_bytes": 18_000_000_000,
                "engine": "llamacpp",
            }
        ],
    }
).encode()


def spell(method: str, path: str, body: bytes = b"") -> bytes:
    kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\n{kind}\r\n".encode() + body


def requests_of(kind: str, number: int) -> Callable[[int], bytes]:
    """The requests of one connection, by how many it has sent."""
    if kind == "heartbeat":
        always = spell("POST", f"/v2/nodes/n{number}/heartbeat", HEARTBEAT)
    elif kind == "look_up":
        always = spell("GET", f"/nodes/n{number}/endpoint")
    else:
        born = time.time_ns()
        return lambda sent: spell(
            "POST",
            "/register",
            b'{"id":"r%d-%d-%d","zone":"a","addr":"10.0.0.1:50051","capacity_gb":100}' % (born, number, sent),
        )
    return lambda _: always


class Connection(asyncio.Protocol):
    """One connection and its one request under way."""

    def __init__(self, make: Callable[[int], bytes], took_ns: list[int], until: float) -> None:
        self.make, self.took_ns, self.until = make, took_ns, until
        self.sent, self.at_ns, self.rest = 0, 0, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        request = self.make(self.sent)
        self.sent += 1
        self.at_ns = time.perf_counter_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.rest += data
        head, end, body = self.rest.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.lower().index(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r\n", at) if b"\r\n" in head[at:] else len(head)])
        if len(body) < length:
            return
        self.took_ns.append(time.perf_counter_ns() - self.at_ns)
        if head[9:10] != b"2":
            self.fail(f"answered {head.splitlines()[0].decode()}: {body.decode()}")
            return
        self.rest = b""
        if time.perf_counter() < self.until:
            self.send()
        else:
            self.transport.close()

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None) if error is None else self.done.set_exception(error)


async def load(port: int, connections: int, seconds: float, kind: str) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    took_ns: list[int] = []
    started = time.perf_counter()
    made = [
        await loop.create_connection(
            lambda number=number: Connection(requests_of(kind, number), took_ns, started + seconds), "127.0.0.1", port
        )
        for number in range(connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in made))
    elapsed = time.perf_counter() - started
    took_ns.sort()
    return {
        "requests": len(took_ns),
        "per_s": len(took_ns) / elapsed,
        "p50_us": took_ns[len(took_ns) // 2] / 1e3,
        "p99_us": took_ns[len(took_ns) * 99 // 100] / 1e3,
    }


if __name__ == "__main__":
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(port, connections, seconds, sys.argv[4]))))
