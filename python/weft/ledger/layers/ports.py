"""What layers need of the world, handed in by whoever composes the process: time, chance, and a way to send requests.

A layer must know after a failure whether its request may have arrived, because a put that may have arrived has an
unknown outcome. So a transport raises `Unreachable` when no connection could be made, and `Disconnected` or `TimedOut`
when one was.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Clock(Protocol):
    """Time that only grows."""

    def monotonic_ms(self) -> int:
        """Milliseconds from some start."""
        ...


class Random(Protocol):
    """Bytes nobody can foresee."""

    def draw(self, size_bytes: int) -> bytes:
        """So many of them."""
        ...


class Answer(NamedTuple):
    """What came back, whatever the status; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http(Protocol):
    """Sends requests to anybody."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_ms: int,
        answer_bytes_max: int,
    ) -> Answer:
        """The whole answer, within the time. A longer one than that is `Disconnected`: it was cut off."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
