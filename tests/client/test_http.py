"""The way over the network: what a machine's own shortages are called, and whose errors are whose."""

import asyncio
import errno
import os

import httpx
import pytest

from weft.client.http import AsyncHttpxHttp, HttpxHttp
from weft.client.ports import Request
from weft.model.errors import Disconnected, Unreachable, WeftError

ASK = Request(method="GET", target="/health", headers={}, body=None)


class Short(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A machine that has none left of something, told as the kernel tells it or in the words of the library."""

    def __init__(self, error_number: int, *, wrapped: bool) -> None:
        self.error_number, self.wrapped = error_number, wrapped

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        error = OSError(self.error_number, os.strerror(self.error_number))
        if self.wrapped:
            raise httpx.ConnectError("all attempts failed") from error
        raise error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


class Fine(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A coordinator that answers."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"data")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"data")


def failures(transport: Short) -> list[WeftError]:
    """What each way of asking raises."""
    caught: list[WeftError] = []

    async def ask() -> None:
        http = AsyncHttpxHttp("http://coordinator", transport=transport)
        with pytest.raises(WeftError) as sent:
            await http.send(ASK, 1.0)
        with pytest.raises(WeftError) as streamed:
            async with http.stream(ASK, 1.0):
                pass
        caught.extend((sent.value, streamed.value))
        await http.close()

    http = HttpxHttp("http://coordinator", transport=transport)
    with pytest.raises(WeftError) as sent:
        http.send(ASK, 1.0)
    with pytest.raises(WeftError) as streamed, http.stream(ASK, 1.0):
        pass
    http.close()
    asyncio.run(ask())
    return [*caught, sent.value, streamed.value]


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it came", "wrapped"])
@pytest.mark.parametrize("error_number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_process_without_descriptors_or_memory_is_told_so_and_may_try_again(error_number: int, wrapped: bool) -> None:
    for error in failures(Short(error_number, wrapped=wrapped)):
        assert isinstance(error, Unreachable)
        assert error.temporary
        assert os.strerror(error_number) in str(error)


def test_any_other_word_of_the_kernel_leaves_open_whether_the_request_arrived() -> None:
    for error in failures(Short(errno.EPIPE, wrapped=False)):
        assert isinstance(error, Disconnected)
        assert error.temporary


def test_an_error_of_whoever_reads_an_answer_stays_their_own() -> None:
    async def read() -> None:
        http = AsyncHttpxHttp("http://coordinator", transport=Fine())
        with pytest.raises(FileNotFoundError):
            async with http.stream(ASK, 1.0):
                raise FileNotFoundError
        await http.close()

    http = HttpxHttp("http://coordinator", transport=Fine())
    with pytest.raises(FileNotFoundError), http.stream(ASK, 1.0):
        raise FileNotFoundError
    http.close()
    asyncio.run(read())
