"""A simulated network: it carries real requests between simulated processes, and loses, delays and repeats some.

Every message crosses a link, named by the machine it leaves and the one it goes to, and a link may be cut in one
direction only. A request whose answer is lost has happened; its caller is told what a socket would tell it: that there
is nobody (the request did not arrive), that the connection ended, or nothing until its time is up.

Requests overtake each other, as they do on different connections. A repeated request arrives twice with the same id,
as it does when something on the way tries again; only its first answer goes back.

An answer may be a stream. Its parts keep their order, as a connection does, and none is lost without the connection:
a part that meets a cut or is lost is the end of all that would have followed, which its reader is told or finds out by
the silence.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.types import ASGIApp

from weft.client.ports import AsyncStreamed, Request, Response
from weft.model.errors import Disconnected, TimedOut, Unreachable, WeftError
from weft.testing.loop import OWNER, SimulatedLoop
from weft.testing.process import Process

_CONNECT_S_MAX = 2.0


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How the network is. Chances are per message; a slow message takes up to `slow_s_max`."""

    delay_s_min: float = 0.0002
    delay_s_max: float = 0.002
    slow: float = 0.0
    slow_s_max: float = 0.0
    loss: float = 0.0
    repeat: float = 0.0


CALM = Weather()
_END: Final = None
"""What comes after the last part of a stream that ended well."""


class Pipe:
    """What of a stream is on its way to its reader, in order. `torn`: nothing gets through any more."""

    __slots__ = ("arrived", "due_s", "sent", "server", "torn")

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[Response | bytes | WeftError | None] = asyncio.Queue()
        self.sent: deque[Response | bytes | None] = deque()
        self.due_s = 0.0
        self.server: object | None = None
        self.torn = False


class Exchange:
    """One request on its way, and what becomes of it."""

    __slots__ = ("answer", "left", "number", "pipe", "position", "request", "server", "source", "status", "target")

    def __init__(
        self,
        number: int,
        source: Process,
        target: str,
        request: Request,
        answer: "asyncio.Future[Response]",
        left: "asyncio.Future[None]",
    ) -> None:
        self.number = number
        self.source = source
        self.target = target
        self.request = request
        self.answer = answer
        self.left = left
        self.pipe: Pipe | None = None
        self.server: Process | None = None
        self.status = 0
        self.position = 0


class Network:
    """Who listens where, and which links are cut. `watch` is told of every answer when it leaves its server."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, note: Callable[[str], None]) -> None:
        self.weather = CALM
        self.watch: Callable[[Exchange, Response], None] = lambda _exchange, _response: None
        self.route: Callable[[str], str] = lambda target: target
        """Who answers at an address now: a balancer before several coordinators answers for all of them."""
        self._loop = loop
        self._random = chance
        self._note = note
        self._context = copy_context()
        self._context.run(OWNER.set, None)
        self._servers: dict[str, tuple[Process, ASGIApp]] = {}
        self._cut: set[tuple[str, str]] = set()
        self._count = 0

    def serve(self, place: str, process: Process, app: ASGIApp) -> None:
        """A process listens."""
        self._servers[place] = (process, app)

    def hush(self, place: str) -> None:
        """Nobody listens there any more."""
        self._servers.pop(place, None)

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """From now on nothing gets from one machine to another, or neither way."""
        self._cut.add((source, target))
        if both:
            self._cut.add((target, source))

    def heal(self, source: str, target: str) -> None:
        """The link carries again, both ways."""
        self._cut -= {(source, target), (target, source)}

    def heal_all(self) -> None:
        """Every link carries again."""
        self._cut.clear()

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The links that carry nothing."""
        return sorted(self._cut)

    def carries(self, source: str, target: str) -> bool:
        """Whether a link carries now."""
        return (source, target) not in self._cut

    def delay_s(self) -> float:
        """How long the next message takes."""
        weather, chance = self.weather, self._random
        if weather.slow and chance.random() < weather.slow:
            return chance.uniform(weather.delay_s_max, weather.slow_s_max)
        return chance.uniform(weather.delay_s_min, weather.delay_s_max)

    def loses(self) -> bool:
        """Whether the next message is lost on its way."""
        return self._random.random() < self.weather.loss

    def after(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        """Have something happen on the way, which no process is in charge of."""
        self._later(delay_s, callback, *args)

    async def cross(self, source: Process, target: str) -> None:
        """Take as long as a message to another machine and back. Raises `TimedOut` when a link is cut."""
        await asyncio.sleep(2 * self.delay_s())
        if not (self.carries(source.name, target) and self.carries(target, source.name)):
            raise TimedOut(f"{target} did not answer {source.name}")

    async def send(self, source: Process, target: str, request: Request, timeout_s: float) -> Response:
        """One request and its answer, or what a socket would say instead."""
        if not source.alive:
            raise Unreachable("this process was killed")
        self._count += 1
        exchange = Exchange(
            self._count, source, target, request, self._loop.create_future(), self._loop.create_future()
        )
        self._note(f"{source.name} > {target} #{exchange.number} {request.method} {request.target}")
        deadline = self._later(timeout_s, self._end, exchange, TimedOut(f"no answer in {timeout_s:.0f} s"))
        self._depart(exchange)
        try:
            return await exchange.answer
        finally:
            deadline.cancel()
            exchange.answer.cancel()
            self._leave(exchange)

    @asynccontextmanager
    async def stream(
        self, source: Process, target: str, request: Request, quiet_s: float
    ) -> AsyncGenerator[AsyncStreamed, None]:
        """One request and an answer that goes on, with no longer silence in it than this."""
        if not source.alive:
            raise Unreachable("this process was killed")
        self._count += 1
        exchange = Exchange(
            self._count, source, target, request, self._loop.create_future(), self._loop.create_future()
        )
        exchange.pipe = pipe = Pipe()
        self._note(f"{source.name} > {target} #{exchange.number} {request.method} {request.target}")
        self._depart(exchange)
        try:
            begun = await self._take(pipe, quiet_s)
            assert isinstance(begun, Response), "a stream begins with its status"
            yield AsyncStreamed(status=begun.status, headers=begun.headers, parts=self._parts(pipe, quiet_s))
        finally:
            self._leave(exchange)

    async def _parts(self, pipe: Pipe, quiet_s: float) -> AsyncIterator[bytes]:
        while isinstance(part := await self._take(pipe, quiet_s), bytes):
            yield part

    async def _take(self, pipe: Pipe, quiet_s: float) -> Response | bytes | None:
        try:
            async with asyncio.timeout(quiet_s):
                arrived = await pipe.arrived.get()
        except TimeoutError:
            raise TimedOut(f"nothing came for {quiet_s:.0f} s") from None
        if isinstance(arrived, WeftError):
            raise arrived
        return arrived

    def _send_part(self, exchange: Exchange, pipe: Pipe, part: Response | bytes | None) -> None:
        """A part of a stream leaves its server, to arrive after those before it."""
        if self._random.random() < self.weather.loss:
            self._later(self.delay_s(), self._tear, exchange, pipe, self._random.random() < 0.5)
        pipe.due_s = max(pipe.due_s, self._loop.time() + self.delay_s())
        pipe.sent.append(part)
        self._later(pipe.due_s - self._loop.time(), self._arrive_part, exchange, pipe)

    def _arrive_part(self, exchange: Exchange, pipe: Pipe) -> None:
        part = pipe.sent.popleft()
        if not self.carries(exchange.target, exchange.source.name):
            pipe.torn = True
        if not pipe.torn:
            pipe.arrived.put_nowait(part)

    def _tear(self, exchange: Exchange, pipe: Pipe, told: bool) -> None:
        pipe.torn = True
        if told:
            self._end(exchange, Disconnected("the connection ended"))

    def _depart(self, exchange: Exchange) -> None:
        chance, weather = self._random, self.weather
        there, back = exchange.source.name, exchange.target
        if not (self.carries(there, back) and self.carries(back, there)) and chance.random() < 0.5:
            # There was no connection, and none can be made.
            self._later(_CONNECT_S_MAX, self._end, exchange, Unreachable("nothing answers there"))
            return
        if chance.random() < weather.loss:
            self._lose(exchange)
        else:
            self._later(self.delay_s(), self._arrive, exchange)
        if chance.random() < weather.repeat:
            self._later(self.delay_s() + self.delay_s(), self._arrive, exchange)

    def _arrive(self, exchange: Exchange) -> None:
        if not self.carries(exchange.source.name, exchange.target):
            return
        listening = self._servers.get(self.route(exchange.target))
        if listening is None or not listening[0].alive:
            self._later(self.delay_s(), self._refuse, exchange)
            return
        process, app = listening
        process.spawn(self._serve(exchange, process, app), f"request-{exchange.number}")

    def _refuse(self, exchange: Exchange) -> None:
        if self.carries(exchange.target, exchange.source.name):
            self._end(exchange, Unreachable("nobody listens there"))

    def _lose(self, exchange: Exchange) -> None:
        """A message is gone. Half of the time the connection ends over it and says so."""
        if self._random.random() < 0.5:
            self._later(self.delay_s(), self._end, exchange, Disconnected("the connection ended"))

    async def _serve(self, exchange: Exchange, process: Process, app: ASGIApp) -> None:
        request = exchange.request
        path, _, query = request.target.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in request.headers.items()],
            "client": (exchange.source.name, 1),
            "server": (exchange.target, 80),
        }
        asked = False
        status, headers, parts = 0, {}, []
        pipe, token = exchange.pipe, object()

        async def receive() -> MutableMapping[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": request.body or b"", "more_body": False}
            await asyncio.shield(exchange.left)
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = _decoded(message["headers"])
                if pipe is not None and pipe.server is None:
                    pipe.server = token
                    self._begin_stream(exchange, process, pipe, Response(status=status, headers=headers, body=b""))
            elif pipe is None:
                parts.append(message.get("body", b""))
            elif pipe.server is token and process.alive:
                if body := message.get("body", b""):
                    self._send_part(exchange, pipe, body)
                if not message.get("more_body"):
                    self._send_part(exchange, pipe, _END)

        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not process.fell_silent:
                self._later(self.delay_s(), self._end, exchange, Disconnected("the connection ended"))
            raise
        if pipe is not None:
            return
        response = Response(status=status, headers=headers, body=b"".join(parts))
        self._answer(exchange, process, response)

    def _begin_stream(self, exchange: Exchange, process: Process, pipe: Pipe, begun: Response) -> None:
        if not process.alive:
            return
        self._note(f"{exchange.target} < #{exchange.number} {begun.status} and goes on")
        exchange.server = process
        self.watch(exchange, begun)
        self._send_part(exchange, pipe, begun)

    def _answer(self, exchange: Exchange, process: Process, response: Response) -> None:
        if not process.alive:
            return
        self._note(f"{exchange.target} < #{exchange.number} {response.status}")
        exchange.server = process
        self.watch(exchange, response)
        if self._random.random() < self.weather.loss:
            self._lose(exchange)
            return
        self._later(self.delay_s(), self._deliver, exchange, response)

    def _deliver(self, exchange: Exchange, response: Response) -> None:
        if self.carries(exchange.target, exchange.source.name) and not exchange.answer.done():
            exchange.answer.set_result(response)

    def _end(self, exchange: Exchange, error: WeftError) -> None:
        if exchange.pipe is not None:
            exchange.pipe.arrived.put_nowait(error)
        elif not exchange.answer.done():
            exchange.answer.set_exception(error)

    def _leave(self, exchange: Exchange) -> None:
        """The caller's end of the connection is free or closed. The server hears of it if anything gets there."""
        if not exchange.left.done() and not exchange.source.fell_silent:
            self._later(self.delay_s(), self._part, exchange)

    def _part(self, exchange: Exchange) -> None:
        if self.carries(exchange.source.name, exchange.target) and not exchange.left.done():
            exchange.left.set_result(None)

    def _later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """The network's own callbacks belong to no process: a paused one does not hold them up."""
        return self._loop.call_later(delay_s, callback, *args, context=self._context)


class SimulatedHttp:
    """One process's way to one place: the client's `AsyncHttp`."""

    def __init__(self, network: Network, source: Process, target: str) -> None:
        self._network, self._source, self._target = network, source, target

    async def send(self, request: Request, timeout_s: float) -> Response:
        """The response, within the time."""
        target = self._target if request.at is None else request.at.removeprefix("http://")
        return await self._network.send(self._source, target, request, timeout_s)

    def stream(self, request: Request, quiet_s: float) -> AbstractAsyncContextManager[AsyncStreamed]:
        """The response as it comes, with no longer silence in it than this."""
        return self._network.stream(self._source, self._target, request, quiet_s)

    async def close(self) -> None:
        """Nothing is held."""


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
