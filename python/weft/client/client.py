"""`Client` and `AsyncClient`: every route of the coordinator as a method, by the operation's name.

    client = weft.Client()                                     # 127.0.0.1:8080, or WEFT_COORDINATOR
    client.register_storage_node(id="n1", zone="a", addr="10.0.0.1:50051", capacity_gb=100)
    client.place_key(hash="abc123", rf=2)                      # ["n1"]
    for event in client.events(since=17): ...

A method takes the names of the route's path, query and body, and returns its reply; what the coordinator refuses is
raised as the class its code stands for. What is temporary is tried again, under the same request id where the first
try may have arrived, until `patience_s` have passed.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from weft import config
from weft.api.bodies.events import EventInfo
from weft.client import coordinator
from weft.client.call import perform
from weft.client.flow import Flow, now, run, run_async
from weft.client.http import AsyncHttpxHttp, HttpxHttp
from weft.client.operations import arrange, operations
from weft.client.ports import (
    AsyncClock,
    AsyncStreamingHttp,
    AsyncSystemClock,
    Chance,
    Clock,
    StreamingHttp,
    SystemClock,
    system_chance,
)
from weft.client.watching import QUIET_S, Watching
from weft.model.errors import WeftError

_PAUSE_S: Final = 0.5
"""Between a stream that ended and the next; a coordinator that restarts takes about as long."""


class Client:
    """The coordinator's routes, called. Safe to share between threads; a context manager that closes its connections.

    Without a URL and a token it looks where every program of Weft looks: WEFT_COORDINATOR, WEFT_TOKENS, the secret.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        patience_s: float | None = None,
        http: StreamingHttp | None = None,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._token = token if token is not None else config.client_token(os.environ)
        self._patience_s = coordinator.PATIENCE_S if patience_s is None else patience_s
        self._http = http or HttpxHttp(_where(url))
        self._clock = clock or SystemClock()
        self._chance = chance or system_chance()

    def call(self, operation: str, /, *, body: Any = None, patience_s: float | None = None, **values: Any) -> Any:
        """Calls an operation of the route table. Raises `BadArgument` for what the route does not take."""
        flow = _ask(operation, values, body, self._token, self._patience_s if patience_s is None else patience_s)
        return run(flow, self._http, self._clock, self._chance)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return partial(self.call, _known(operation, self))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *operations()})

    def events(self, since: int | str = 0, *, follow: bool = True) -> Iterator[EventInfo]:
        """Every event after a place in the log; with `follow`, also those to come, for as long as it is iterated.

        Connections that end are made again. Raises what does not pass within the patience, PositionCompacted when the
        log no longer begins early enough.
        """
        watching = Watching(since, follow=follow, token=self._token)
        heard_s = self._clock.now_s()
        while True:
            try:
                with self._http.stream(watching.request(f"{self._chance.getrandbits(64):016x}"), QUIET_S) as answer:
                    if answer.status != 200:
                        watching.check(answer.status, answer.headers, b"".join(answer.parts))
                    for part in answer.parts:
                        heard_s = self._clock.now_s()
                        yield from watching.feed(part)
                if not follow:
                    return
            except WeftError as error:
                if not error.temporary or self._clock.now_s() - heard_s > self._patience_s:
                    raise
            self._clock.sleep(_PAUSE_S)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The coordinator's routes, awaited. The same as `Client` in every other way."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        patience_s: float | None = None,
        http: AsyncStreamingHttp | None = None,
        clock: AsyncClock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._token = token if token is not None else config.client_token(os.environ)
        self._patience_s = coordinator.PATIENCE_S if patience_s is None else patience_s
        self._http = http or AsyncHttpxHttp(_where(url))
        self._clock = clock or AsyncSystemClock()
        self._chance = chance or system_chance()

    async def call(self, operation: str, /, *, body: Any = None, patience_s: float | None = None, **values: Any) -> Any:
        """Calls an operation of the route table. Raises `BadArgument` for what the route does not take."""
        flow = _ask(operation, values, body, self._token, self._patience_s if patience_s is None else patience_s)
        return await run_async(flow, self._http, self._clock, self._chance)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return partial(self.call, _known(operation, self))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *operations()})

    async def events(self, since: int | str = 0, *, follow: bool = True) -> AsyncIterator[EventInfo]:
        """Every event after a place in the log; see `Client.events`."""
        watching = Watching(since, follow=follow, token=self._token)
        heard_s = self._clock.now_s()
        while True:
            try:
                request = watching.request(f"{self._chance.getrandbits(64):016x}")
                async with self._http.stream(request, QUIET_S) as answer:
                    if answer.status != 200:
                        body = b"".join([part async for part in answer.parts])
                        watching.check(answer.status, answer.headers, body)
                    async for part in answer.parts:
                        heard_s = self._clock.now_s()
                        for event in watching.feed(part):
                            yield event
                if not follow:
                    return
            except WeftError as error:
                if not error.temporary or self._clock.now_s() - heard_s > self._patience_s:
                    raise
            await self._clock.sleep(_PAUSE_S)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _ask(operation: str, values: dict[str, Any], body: Any, token: str | None, patience_s: float) -> Flow[Any]:
    """The flow of one call, its patience beyond what the coordinator was asked to wait."""
    call = arrange(operation, values, body, token)
    started_s = yield from now()
    return (yield from perform(call, started_s + patience_s + call.wait_ms / 1_000))


def _known(operation: str, holder: object) -> str:
    """The operation an attribute names; anything else is the attribute that is missing."""
    if operation not in operations():
        raise AttributeError(f"{type(holder).__name__} has no operation {operation!r}")
    return operation


def _where(url: str | None) -> str:
    if url is None:
        return config.coordinator_url(os.environ)
    return (url if "://" in url else f"http://{url}").rstrip("/")
