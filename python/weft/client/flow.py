"""The client's logic without its I/O: a flow is a generator that yields what it needs and is resumed with it.

    Send(request, timeout_s)   → the Response, or the transport's error thrown in
    Pause(longest_s)           → None, after a while: somewhere between half of it and all of it, so that many do not
                                 come back at once
    Now()                      → seconds of a clock that only grows
    Mint()                     → a request id nobody has used

A flow opens no socket, reads no clock and never sleeps; `run` and `run_async` do these for it, and tests do neither.
Flows are composed with `yield from`. This is how h11 and httpx's authentication are built, and the reason is theirs:
the sync and the async client are one text.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from msgspec import Struct

from weft.client.ports import AsyncClock, AsyncHttp, Chance, Clock, Http, Request
from weft.model.errors import WeftError

T = TypeVar("T")


class Send(Struct, frozen=True):
    """Send a request and give back its response."""

    request: Request
    timeout_s: float


class Pause(Struct, frozen=True):
    """Let time pass."""

    longest_s: float


class Now(Struct, frozen=True):
    """Say what time it is."""


class Mint(Struct, frozen=True):
    """Make a request id."""


Step: TypeAlias = Send | Pause | Now | Mint
Flow: TypeAlias = Generator[Step, Any, T]


def now() -> Flow[float]:
    """What time it is, inside a flow: `at_s = yield from now()`."""
    at_s: float = yield Now()
    return at_s


def run(flow: Flow[T], http: Http, clock: Clock, chance: Chance) -> T:
    """Carries a flow out to its end in this thread. Raises what the flow raises."""
    given: Any = None
    error: WeftError | None = None
    while True:
        try:
            step = flow.send(given) if error is None else flow.throw(error)
        except StopIteration as end:
            result: T = end.value
            return result
        given, error = None, None
        try:
            match step:
                case Send(request, timeout_s):
                    given = http.send(request, timeout_s)
                case Pause(longest_s):
                    clock.sleep(_scattered(longest_s, chance))
                case Now():
                    given = clock.now_s()
                case Mint():
                    given = f"{chance.getrandbits(64):016x}"
        except WeftError as caught:
            error = caught


async def run_async(flow: Flow[T], http: AsyncHttp, clock: AsyncClock, chance: Chance) -> T:
    """Carries a flow out to its end in this task. Raises what the flow raises."""
    given: Any = None
    error: WeftError | None = None
    while True:
        try:
            step = flow.send(given) if error is None else flow.throw(error)
        except StopIteration as end:
            result: T = end.value
            return result
        given, error = None, None
        try:
            match step:
                case Send(request, timeout_s):
                    given = await http.send(request, timeout_s)
                case Pause(longest_s):
                    await clock.sleep(_scattered(longest_s, chance))
                case Now():
                    given = clock.now_s()
                case Mint():
                    given = f"{chance.getrandbits(64):016x}"
        except WeftError as caught:
            error = caught


def _scattered(longest_s: float, chance: Chance) -> float:
    return longest_s * (0.5 + 0.5 * chance.random())
