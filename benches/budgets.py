"""The node seed's latency budgets under the load it names: 50 nodes that beat, and a thousand placements a second.

    python -m benches.budgets PORT SECONDS     the generator by itself, against a coordinator of `benches.budgets.run`

Requests are sent when they are due, and not when the answer before them has come; the time of each is counted from when
it was due. So a coordinator that stops for a second shows a thousand slow placements and not one.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from benches.control import stopped
from benches.load import TOKEN, spell
from benches.registry import line, start
from benches.rounds import ROUNDS, Row, heading, measured, show

NODES = 50
BEAT_EVERY_S = 10.0
PLACEMENTS_PER_S = 1_000
CONNECTIONS = 32
SECONDS = 10.0
ROUNDS_MAX = 3
SLOTS = 1_000_000
BUDGET_MS = {"register_ms": 5_000, "beat_ms": 1_000, "place_ms": 100}
"""What may pass at most at the 99th percentile: the node seed's specification, 11001 to 11003."""


def rows() -> dict[str, Row]:
    """A row for each budget. Its floor is the budget, so that a ratio over one is a budget that was missed."""
    names = {"register_ms": "register, p99", "beat_ms": "heartbeat, p99", "place_ms": "placement, p99"}
    return {key: Row(names[key], "ms", "≤ 1.00", floor=[float(BUDGET_MS[key])]) for key in BUDGET_MS}


def run() -> list[Row]:
    heading(
        f"budgets: {NODES} nodes, a beat each {BEAT_EVERY_S:.0f} s, {PLACEMENTS_PER_S} placements/s for "
        f"{SECONDS:.0f} s (the floor is the budget)"
    )
    made = rows()
    for _ in range(min(ROUNDS, ROUNDS_MAX)):
        with coordinator() as port:
            sample = measured([sys.executable, "-m", "benches.budgets", str(port), str(SECONDS)])
        for key, row in made.items():
            row.weft.append(sample[key])
        print(f"{sample['placed']:.0f} placements, {sample['beats']:.0f} beats, {sample['refused']:.0f} refused")
        if sample["refused"] or sample["placed"] < PLACEMENTS_PER_S * SECONDS:
            raise SystemExit("the load was not carried: a budget that is kept by refusing is not kept")
    for row in made.values():
        show(row)
    return list(made.values())


@contextmanager
def coordinator() -> Iterator[int]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("WEFT_BENCH_DIR")) as folder:
        environment = os.environ | {
            "WEFT_DATA_DIR": folder,
            "COORDINATOR_PORT": "0",
            "ORCHESTRATORD_CLOUD_PROFILE": "true",
            "LLORCH_API_TOKEN": TOKEN,
        }
        with stopped(start([sys.executable, "-m", "weft.coordinator"], environment)) as process:
            yield int(line(process).rsplit(":", 1)[1])


def registration(number: int) -> bytes:
    body = {
        "node_id": f"n{number}",
        "machine_id": f"m{number}",
        "address": "http://10.0.0.1:9200",
        "pools": ["pool-0"],
        "capabilities": {"gpus": [], "cpu_cores": 16, "ram_total_bytes": 64_000_000_000},
    }
    return spell("POST", "/v2/nodes/register", json.dumps(body).encode())


def beat(number: int) -> bytes:
    pool = {"pool_id": "pool-0", "ready": True, "slots_free": SLOTS, "slots_total": SLOTS, "vram_free_bytes": 1 << 34}
    return spell("POST", f"/v2/nodes/n{number}/heartbeat", json.dumps({"pools": [pool]}).encode())


class Lines:
    """A few connections; a request takes one that is idle, or waits for it, and its wait counts."""

    def __init__(self) -> None:
        self._idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.refused = 0

    async def open(self, port: int, count: int) -> None:
        for _ in range(count):
            self._idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes, due_s: float, took_ms: list[float]) -> None:
        """Send a request that was due at a time, and note how long after that its answer was there."""
        reader, writer = await self._idle.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(text.split(b":")[1]) for text in head.lower().split(b"\r\n") if text.startswith(b"content-l"))
        await reader.readexactly(length)
        self._idle.put_nowait((reader, writer))
        took_ms.append((asyncio.get_running_loop().time() - due_s) * 1e3)
        self.refused += head[9:10] != b"2"


async def generate(port: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    lines = Lines()
    await lines.open(port, CONNECTIONS)
    registered: list[float] = []
    beaten: list[float] = []
    placed: list[float] = []
    # All at once, as when the power comes back.
    await asyncio.gather(*(lines.ask(registration(number), loop.time(), registered) for number in range(NODES)))
    await asyncio.gather(*(lines.ask(beat(number), loop.time(), beaten) for number in range(NODES)))
    began_s = loop.time()
    place = spell("POST", "/v2/placements", b"{}")
    due = [(began_s + index / PLACEMENTS_PER_S, place, placed) for index in range(int(seconds * PLACEMENTS_PER_S))]
    for number in range(NODES):
        offset_s = BEAT_EVERY_S * number / NODES
        while offset_s < seconds:
            due.append((began_s + offset_s, beat(number), beaten))
            offset_s += BEAT_EVERY_S
    due.sort(key=lambda one: one[0])
    under_way: set[asyncio.Task[None]] = set()
    for due_s, request, took_ms in due:
        if (early_s := due_s - loop.time()) > 0:
            await asyncio.sleep(early_s)
        task = asyncio.ensure_future(lines.ask(request, due_s, took_ms))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    while under_way:
        await asyncio.wait(set(under_way))
    return {
        "register_ms": p99(registered),
        "beat_ms": p99(beaten),
        "place_ms": p99(placed),
        "placed": len(placed),
        "beats": len(beaten),
        "refused": lines.refused,
    }


def p99(took: list[float]) -> float:
    return sorted(took)[len(took) * 99 // 100]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(generate(int(sys.argv[1]), float(sys.argv[2])))))
