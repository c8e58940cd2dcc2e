"""A coordinator that answers from a script, and time that passes when somebody waits."""

import json
import random
from collections.abc import Callable
from typing import Any

from weft.client.flow import Flow, run
from weft.client.ports import Request, Response
from weft.model.errors import WeftError

Answer = Response | WeftError | Callable[[Request], Response]


class ScriptedHttp:
    """Gives the answers in order and keeps what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.timeouts_s: list[float] = []
        self.closed = False

    def send(self, request: Request, timeout_s: float) -> Response:
        self.requests.append(request)
        self.timeouts_s.append(timeout_s)
        assert self.answers, f"nobody scripted an answer to {request.method} {request.target}"
        answer = self.answers.pop(0)
        if isinstance(answer, WeftError):
            raise answer
        return answer if isinstance(answer, Response) else answer(request)

    def close(self) -> None:
        self.closed = True

    @property
    def targets(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]


class FakeClock:
    """Time that passes only in sleeps."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.slept_s: list[float] = []

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.at_s += duration_s


def answer(body: Any, status: int = 200) -> Response:
    return Response(status=status, headers={}, body=json.dumps(body).encode())


def refusal(code: str, sentence: str, status: int, **fields: Any) -> Response:
    return answer({"error": sentence, "code": code, "fields": fields, "temporary": status >= 500}, status)


def perform(flow: Flow[Any], http: ScriptedHttp, clock: FakeClock | None = None) -> Any:
    return run(flow, http, clock or FakeClock(), random.Random(1))


def region_body(name: str = "scratch", **changes: Any) -> dict[str, Any]:
    """A region as the coordinator describes it."""
    extent = {"index": 0, "stripes": 2, "replicas": [{"node_id": "a", "incarnation": "00000000000000ff"}]}
    return {
        "name": name,
        "region_id": "r0000000000000001",
        "size_bytes": 4 << 20,
        "reserved_bytes": 4 << 20,
        "state": "ready",
        "generation": 1,
        "sealed": False,
        "layout": {
            "generation": 1,
            "stripe_bytes": 2 << 20,
            "bands": [{"first_stripe": 0, "stripes": 2, "extents": [extent]}],
        },
        "attachments": [],
        "lost_extents": [],
        "error": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        **changes,
    }
