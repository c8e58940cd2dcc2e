"""The way over the network: the client's ports on httpx. The one file of the room that knows httpx."""

import errno
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Final

import httpx

from weft.client.ports import AsyncStreamed, Request, Response, Streamed
from weft.model.errors import Disconnected, Failed, TimedOut, Unreachable

# A waiting beat holds one connection, and so does each thread that asks; more than this is a leak.
_CONNECTIONS_MAX = 32
# What a machine says that has nothing left to open a connection with: no byte of the request has left it.
_OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class HttpxHttp:
    """Requests over a pool of connections, from any thread, and from a child made by fork over a pool of its own."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        self._transport = transport
        self._client = self._pool()
        self._process_id = os.getpid()

    def send(self, request: Request, timeout_s: float) -> Response:
        """Sends and reads the whole answer."""
        if os.getpid() != self._process_id:
            # Two processes that speak over one connection would take each other's answers.
            self._client, self._process_id = self._pool(), os.getpid()
        try:
            answer = self._client.request(
                request.method,
                _address(self._url, request),
                headers=dict(request.headers),
                content=request.body,
                timeout=_timeout(timeout_s),
            )
        except (httpx.HTTPError, OSError) as error:
            raise _failure(error, request, request.at or self._url, timeout_s) from error
        return _response(answer)

    @contextmanager
    def stream(self, request: Request, quiet_s: float) -> Iterator[Streamed]:
        """Sends, and gives the answer as it comes."""
        begun = False
        try:
            with self._client.stream(
                request.method,
                _address(self._url, request),
                headers=dict(request.headers),
                content=request.body,
                timeout=_timeout(quiet_s),
            ) as answer:
                begun = True
                yield Streamed(status=answer.status_code, headers=_headers(answer), parts=answer.iter_bytes())
        except (httpx.HTTPError, OSError) as error:
            if begun and isinstance(error, OSError):
                # Of whoever reads the answer, to a file perhaps: none of this file's business.
                raise
            raise _failure(error, request, request.at or self._url, quiet_s) from error

    def close(self) -> None:
        """Closes the pool."""
        self._client.close()

    def _pool(self) -> httpx.Client:
        # trust_env is off: a proxy meant for the web must not stand between machines of a cluster.
        return httpx.Client(base_url=self._url, transport=self._transport, limits=_limits(), trust_env=False)


class AsyncHttpxHttp:
    """Requests over a pool of connections, awaited. Tests hand in a transport that calls the application itself."""

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url
        self._client = httpx.AsyncClient(base_url=url, transport=transport, limits=_limits(), trust_env=False)

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Sends and reads the whole answer."""
        try:
            answer = await self._client.request(
                request.method,
                _address(self._url, request),
                headers=dict(request.headers),
                content=request.body,
                timeout=_timeout(timeout_s),
            )
        except (httpx.HTTPError, OSError) as error:
            raise _failure(error, request, request.at or self._url, timeout_s) from error
        return _response(answer)

    @asynccontextmanager
    async def stream(self, request: Request, quiet_s: float) -> AsyncIterator[AsyncStreamed]:
        """Sends, and gives the answer as it comes."""
        begun = False
        try:
            async with self._client.stream(
                request.method,
                _address(self._url, request),
                headers=dict(request.headers),
                content=request.body,
                timeout=_timeout(quiet_s),
            ) as answer:
                begun = True
                yield AsyncStreamed(status=answer.status_code, headers=_headers(answer), parts=answer.aiter_bytes())
        except (httpx.HTTPError, OSError) as error:
            if begun and isinstance(error, OSError):
                # Of whoever reads the answer, to a file perhaps: none of this file's business.
                raise
            raise _failure(error, request, request.at or self._url, quiet_s) from error

    async def close(self) -> None:
        """Closes the pool."""
        await self._client.aclose()


def _address(url: str, request: Request) -> str:
    """Where a request goes. A token that is shown over TLS is shown to nobody without it, whoever names him.

    Whoever names another coordinator was shown the token before, so that one may be on any host.
    """
    if request.at is not None and url.lower().startswith("https://") and not request.at.startswith("https://"):
        raise Unreachable(
            f"the coordinator at {url} names {request.at} as the one that writes, which speaks no TLS, and it is not "
            "asked: have it announce an https:// address (WEFT_ADVERTISE)",
            url=request.at,
        )
    return (request.at or "") + request.target


def _limits() -> httpx.Limits:
    return httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_CONNECTIONS_MAX)


def _timeout(timeout_s: float) -> httpx.Timeout:
    # A coordinator that is there accepts at once; waiting longer for the connection only hides that it is not.
    return httpx.Timeout(timeout_s, connect=min(timeout_s, 2.0))


def _response(answer: httpx.Response) -> Response:
    return Response(status=answer.status_code, headers=_headers(answer), body=answer.content)


def _headers(answer: httpx.Response) -> Mapping[str, str]:
    return MappingProxyType({name.lower(): value for name, value in answer.headers.items()})


def _failure(error: httpx.HTTPError | OSError, request: Request, url: str, timeout_s: float) -> Failed:
    """The class for what went wrong. Whether the request may have arrived is what a caller must know."""
    means = _out_of_means(error)
    if means is not None:
        return Unreachable(
            f"this process cannot open a connection to the coordinator at {url}: {means}; raise its limits "
            "(ulimit -n), or end what takes so many",
            url=url,
        )
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Unreachable(
                f"no coordinator answers at {url}; start one with `weft coordinator`, or set WEFT_COORDINATOR", url=url
            )
        case httpx.TimeoutException():
            return TimedOut(
                f"the coordinator at {url} did not answer {request.method} {request.target} in {timeout_s:.0f} s"
            )
        case _:
            return Disconnected(
                f"the connection to the coordinator at {url} ended during {request.method} {request.target}"
            )


def _out_of_means(error: BaseException | None) -> str | None:
    """The kernel's word, where what is missing is missing here: httpx passes it on as its own error or as it came."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OUT_OF_MEANS:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None
