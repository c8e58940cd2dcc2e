"""Registering and looking up endpoints: the coordinator beside the least HTTP server, through the same client."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches.rounds import Row, Sample, heading, in_turn

REQUESTS = 400
ENDPOINT = json.dumps({"transport_type": "tcp", "tcp_addr": "192.168.1.10", "tcp_port": 50051}).encode()
NODE = {"node_id": 0, "hostname": "node0", "ip_address": "192.168.1.10", "cpu_count": 8, "memory_mb": 16384}


def run() -> list[Row]:
    heading(f"registry (p50 over one kept connection, {REQUESTS} requests, durable before the answer)")
    with tempfile.TemporaryDirectory() as folder:
        floor = start([str(Path(os.environ.get("WEFT_FLOORS", ".build/floor")) / "http"), f"{folder}/log"])
        environment = os.environ | {"WEFT_DATA_DIR": f"{folder}/data", "COORDINATOR_PORT": "0"}
        coordinator = start([sys.executable, "-m", "weft.coordinator"], environment)
        try:
            floor_port = int(line(floor))
            port = int(line(coordinator).rsplit(":", 1)[1])
            call(port, "POST", "/cluster", json.dumps({"name": "bench", "nodes": [NODE]}).encode())
            rows = {"register": Row("register an endpoint", "µs", ""), "look_up": Row("look one up", "µs", "")}
            return in_turn(rows, lambda: times(floor_port), lambda: times(port))
        finally:
            for process in (coordinator, floor):
                process.terminate()
                process.wait(timeout=20)


def times(port: int) -> Sample:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    sample = {}
    for name, method, body in (("register", "POST", ENDPOINT), ("look_up", "GET", None)):
        took = []
        for _ in range(REQUESTS):
            started = time.perf_counter_ns()
            connection.request(method, "/nodes/0/endpoint", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter_ns() - started)
            assert answer.status in (200, 201), answer.status
        sample[name] = sorted(took)[REQUESTS // 2] / 1e3
    connection.close()
    return sample


def call(port: int, method: str, path: str, body: bytes, token: str = "") -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    assert answer.status in (200, 201), (answer.status, answer.read())
    connection.close()


def start(command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
