"""The way over the network: the layers' port on httpx. The one file of the room that knows httpx.

It is imported when the first pool is made: a coordinator without layers starts a tenth of a second sooner, and holds no
certificates.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from weft.ledger.layers.ports import Answer
from weft.model.errors import Disconnected, Failed, TimedOut, Unreachable
from weft.model.policy import CONNECT_MS_MAX, LAYER_CONNECTIONS_MAX

if TYPE_CHECKING:
    import httpx


class HttpxHttp:
    """Requests over one pool of connections. One is enough for every layer of a process."""

    def __init__(self, *, transport: "httpx.AsyncBaseTransport | None" = None) -> None:
        import httpx

        limits = httpx.Limits(max_connections=LAYER_CONNECTIONS_MAX, max_keepalive_connections=LAYER_CONNECTIONS_MAX)
        # trust_env is off: what a proxy caches or rewrites is not what a layer said.
        self._client = httpx.AsyncClient(transport=transport, limits=limits, trust_env=False)

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
        """The whole answer. The time is for all of it: a peer that sends a byte a second does not hold anybody."""
        import httpx

        timeout_s = timeout_ms / 1_000
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_MS_MAX / 1_000))
        try:
            async with asyncio.timeout(timeout_s):
                async with self._client.stream(
                    method, url, headers=dict(headers), content=body, timeout=timeout
                ) as got:
                    parts: list[bytes] = []
                    size_bytes = 0
                    async for part in got.aiter_bytes():
                        size_bytes += len(part)
                        if size_bytes > answer_bytes_max:
                            raise Disconnected(
                                f"{url} answered {method} with more than {answer_bytes_max} bytes", url=url
                            )
                        parts.append(part)
                    lower = {name.lower(): value for name, value in got.headers.items()}
                    return Answer(got.status_code, MappingProxyType(lower), b"".join(parts))
        except TimeoutError as error:
            raise TimedOut(f"{url} did not answer {method} in {timeout_s:g} s", url=url) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failure(error, method, url, timeout_s) from error

    async def close(self) -> None:
        """Close the pool."""
        await self._client.aclose()


def _failure(error: "httpx.HTTPError | httpx.InvalidURL", method: str, url: str, timeout_s: float) -> Failed:
    """The class for what went wrong: whether the request may have arrived is what a caller must know."""
    import httpx

    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout() | httpx.InvalidURL():
            return Unreachable(f"nobody answers at {url}", url=url)
        case httpx.TimeoutException():
            return TimedOut(f"{url} did not answer {method} in {timeout_s:g} s", url=url)
        case _:
            return Disconnected(f"the connection to {url} ended during {method}", url=url)
