"""What the client needs of the world, handed in by whoever composes it: a way to send a request, time, and chance.

`Request` and `Response` are all of HTTP that the rest of the room knows. A transport raises Unreachable when no
connection could be made (the request did not arrive) and Disconnected or TimedOut when it may have arrived.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

from msgspec import Struct


class Request(Struct, frozen=True, kw_only=True):
    """One HTTP request to the coordinator; `target` is the path with its query.

    `at` is the address of another coordinator, the one that writes, where a follower named it.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    at: str | None = None


class Response(Struct, frozen=True, kw_only=True):
    """What came back, whatever the status; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Streamed(Struct, frozen=True, kw_only=True):
    """An answer that goes on: its status, and its parts as they come."""

    status: int
    headers: Mapping[str, str]
    parts: Iterator[bytes]


class AsyncStreamed(Struct, frozen=True, kw_only=True):
    """An answer that goes on, awaited."""

    status: int
    headers: Mapping[str, str]
    parts: AsyncIterator[bytes]


class Http(Protocol):
    """Sends requests to one coordinator."""

    def send(self, request: Request, timeout_s: float) -> Response:
        """The response, within the time. Safe to call from several threads."""
        ...

    def close(self) -> None:
        """Gives the connections back."""
        ...


class AsyncHttp(Protocol):
    """Sends requests to one coordinator, awaited."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        """The response, within the time."""
        ...

    async def close(self) -> None:
        """Gives the connections back."""
        ...


class StreamingHttp(Http, Protocol):
    """Sends requests, and reads answers that go on."""

    def stream(self, request: Request, quiet_s: float) -> AbstractContextManager[Streamed]:
        """The response as it comes, with no longer silence in it than this."""
        ...


class AsyncStreamingHttp(AsyncHttp, Protocol):
    """Sends requests, and reads answers that go on, awaited."""

    def stream(self, request: Request, quiet_s: float) -> AbstractAsyncContextManager[AsyncStreamed]:
        """The response as it comes, with no longer silence in it than this."""
        ...


class Clock(Protocol):
    """Time that passes: a reading that only grows, and a wait."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Waits."""
        ...


class AsyncClock(Protocol):
    """Time that passes, awaited."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Waits, letting others run."""
        ...


class Chance(Protocol):
    """Randomness: `random.Random` is one."""

    def random(self) -> float:
        """A number from 0 up to 1."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """A number of `k` random bits."""
        ...


class SystemClock:
    """The machine's own time."""

    def now_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Waits."""
        time.sleep(duration_s)


class AsyncSystemClock:
    """The machine's own time, for asyncio."""

    def now_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Waits, letting others run."""
        await asyncio.sleep(duration_s)


def system_chance() -> Chance:
    """Randomness of the machine, good enough for identities."""
    return random.SystemRandom()
