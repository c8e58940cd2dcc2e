"""The control plane in figures: replay, the ring, memory a node, and HTTP beside a bare ASGI floor.

What has no floor is held against what was promised: there the column of the floor is the promise, and the ratio is
measured over promised. FastAPI's CPU time for the same routes is printed where FastAPI can be imported, by this Python
or by the one that WEFT_BENCH_FASTAPI names.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benches.load import TOKEN
from benches.registry import call, line, start
from benches.rounds import ROUNDS, Row, Sample, figure, heading, measured, show, weft_program

CONNECTIONS = 32
SECONDS = 2.0
COMMAND_BYTES = 176
"""What registering a node takes in the log, its envelope shared with others."""
POOL_NODE = (
    '{"node_id":"n%d","machine_id":"m","address":"http://10.0.0.1:9200","pools":["pool-0"],'
    '"capabilities":{"gpus":[],"cpu_cores":16,"ram_total_bytes":64000000000},"version":"0.1.0"}'
)
ENDPOINT = b'{"transport_type":"tcp","tcp_addr":"192.168.1.10","tcp_port":50051}'
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def run() -> list[Row]:
    return [*_pure(), *_http()]


def _pure() -> list[Row]:
    heading("the core, in one process (the floor is the promise)")
    rows = {
        "events_per_s": Row("replay", "events/s", "≥ 1.00", floor=[400_000]),
        "place_us": Row("place on 1,000 nodes", "µs", "≤ 1.00", floor=[10]),
        "node_bytes": Row("memory a node", "bytes", "≤ 1.00", floor=[4096]),
        "ring_bytes": Row("ring memory, 64 points", "bytes", "", floor=[64 * 12]),
        "build_s": Row("build 100 of 100 TB", "s", "≤ 1.00", floor=[2]),
        "join_ms": Row("then one more joins", "ms", "", floor=[100]),
        "place_p99_us": Row("place there, p99", "µs", "≤ 1.00", floor=[1000]),
    }
    for _ in range(ROUNDS):
        sample = weft_program("rules")
        for key, row in rows.items():
            row.weft.append(sample[key])
    for row in rows.values():
        show(row)
    return list(rows.values())


def _http() -> list[Row]:
    cpus = len(os.sched_getaffinity(0))
    heading(f"HTTP, {CONNECTIONS} connections, generator and server on the same {cpus} CPUs; the floor is bare ASGI")
    rates = {
        "heartbeat": Row("heartbeat", "per s", "≥ 0.50"),
        "look_up": Row("look an endpoint up", "per s", "≥ 0.50"),
    }
    cpu = {kind: Row(f"CPU, {row.name}", "µs", "") for kind, row in rates.items()}
    register = {
        "per_s": Row("durable register", "per s", "≥ 1.00", floor=[8_000]),
        "p99_us": Row("durable register, p99", "µs", "≤ 1.00", floor=[15_000]),
    }
    disk = Row("of what the disk allows", "per s", "")
    syncs: list[Sample] = []
    with serving("bare") as floor, coordinator() as weft:
        for _ in range(ROUNDS):
            for kind, row in rates.items():
                for server, samples, cpus_us in ((floor, row.floor, cpu[kind].floor), (weft, row.weft, cpu[kind].weft)):
                    sample = loaded(server, kind)
                    samples.append(sample["per_s"])
                    cpus_us.append(sample["cpu_us"])
            # A coordinator of its own each time: what is measured is a registry of some thousand nodes, not one that
            # grew by all the rounds before.
            with coordinator() as fresh:
                sample = loaded(fresh, "register")
            for key, row in register.items():
                row.weft.append(sample[key])
            syncs.append(weft_program("disk", bench_folder(), CONNECTIONS, COMMAND_BYTES, SECONDS))
            disk.weft.append(sample["per_s"])
            disk.floor.append(syncs[-1]["in_place_per_s"])
    ceiling_per_s = statistics.median(disk.floor)
    is_beyond = ceiling_per_s < register["per_s"].floor[0]
    if is_beyond:
        for row in register.values():
            row.bound = ""
    rows = [*rates.values(), *cpu.values(), *register.values(), disk]
    for row in rows:
        show(row)
    print(_disk_lines(syncs, is_beyond))
    print(_fastapi_line(cpu))
    return rows


def _disk_lines(syncs: list[Sample], is_beyond: bool) -> str:
    """What the journal's disk allowed in this run, whoever writes."""
    in_place = figure(statistics.median(sample["in_place_us"] for sample in syncs))
    growing = figure(statistics.median(sample["growing_us"] for sample in syncs))
    told = (
        f"the journal's disk makes a batch of {CONNECTIONS} durable in {in_place} µs, in {growing} where the file "
        f"grows; {CONNECTIONS} callers who wait for it can be answered {CONNECTIONS} times in that, and no faster "
        "(WEFT_BENCH_DIR chooses another disk)"
    )
    beyond = "\nthat is less than what was promised: on this disk the promise is nobody's to keep"
    return told + (beyond if is_beyond else "")


def _fastapi_line(cpu: dict[str, Row]) -> str:
    python = os.environ.get("WEFT_BENCH_FASTAPI", sys.executable)
    tried = subprocess.run([python, "-c", "import fastapi, uvloop, httptools"], capture_output=True, check=False)
    if tried.returncode != 0:
        return f"FastAPI beside it: left out, because {python} has no fastapi with uvloop and httptools"
    told: list[str] = []
    with serving("fastapi", python) as server:
        for kind, row in cpu.items():
            loaded(server, kind)  # once to warm up
            ours, theirs = sorted(row.weft)[len(row.weft) // 2], loaded(server, kind)["cpu_us"]
            told.append(f"{kind} {figure(theirs)} µs against {figure(ours)} ({theirs / ours:.1f} times)")
    return "FastAPI beside it, CPU a request: " + ", ".join(told)


Server = tuple[int, int]
"""Port and process id."""


@contextmanager
def serving(name: str, python: str = sys.executable) -> Iterator[Server]:
    path = str(Path(__file__).parent / "asgi.py")
    with stopped(start([python, path, name])) as process:
        yield int(line(process)), process.pid


@contextmanager
def coordinator() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(dir=bench_folder()) as folder:
        environment = os.environ | {
            "WEFT_DATA_DIR": folder,
            "COORDINATOR_PORT": "0",
            "ORCHESTRATORD_CLOUD_PROFILE": "true",
            "LLORCH_API_TOKEN": TOKEN,
        }
        with stopped(start([sys.executable, "-m", "weft.coordinator"], environment)) as process:
            port = int(line(process).rsplit(":", 1)[1])
            for number in range(CONNECTIONS):
                call(port, "POST", "/v2/nodes/register", (POOL_NODE % number).encode(), TOKEN)
                call(port, "POST", f"/nodes/n{number}/endpoint", ENDPOINT, TOKEN)
            yield port, process.pid


@contextmanager
def stopped(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def loaded(server: Server, kind: str) -> Sample:
    """A server under load, with the processor time it spent on each request."""
    port, pid = server
    before = cpu_s(pid)
    sample = measured([sys.executable, "-m", "benches.load", str(port), str(CONNECTIONS), str(SECONDS), kind])
    sample["cpu_us"] = (cpu_s(pid) - before) / sample["requests"] * 1e6
    return sample


def bench_folder() -> str:
    """Where journals are kept while they are measured."""
    return os.environ.get("WEFT_BENCH_DIR", tempfile.gettempdir())


def cpu_s(pid: int) -> float:
    """The processor time a process has spent, of its own and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
