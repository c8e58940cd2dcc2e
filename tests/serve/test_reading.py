"""Reading a body: at once when it is there, with a deadline when it is not."""

import asyncio
from typing import Any

import pytest

from weft.model.errors import BodyTooLarge, Disconnected, TimedOut
from weft.serve.call import read_body


def parts_of(*parts: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]


class Caller:
    """Sends its messages, each after as many turns of the loop as it is told to take."""

    def __init__(self, messages: list[dict[str, Any]], turns: int = 0) -> None:
        self.messages = messages
        self.turns = turns

    async def __call__(self) -> Any:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return self.messages.pop(0)


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_body_is_whole_however_it_comes(turns: int) -> None:
    caller = Caller(parts_of(b"one ", b"two ", b"three"), turns)
    assert asyncio.run(read_body(caller, 100, 1_000)) == b"one two three"


@pytest.mark.parametrize("turns", [0, 3])
def test_what_goes_wrong_goes_wrong_the_same_way_at_once_and_after_a_wait(turns: int) -> None:
    with pytest.raises(BodyTooLarge):
        asyncio.run(read_body(Caller(parts_of(b"123", b"456"), turns), 5, 1_000))
    with pytest.raises(Disconnected):
        asyncio.run(read_body(Caller([{"type": "http.disconnect"}], turns), 5, 1_000))


def test_a_body_that_stops_half_way_is_not_waited_for() -> None:
    async def half() -> Any:
        if not first:
            await asyncio.Event().wait()
        return first.pop()

    first = [{"type": "http.request", "body": b"half", "more_body": True}]
    with pytest.raises(TimedOut):
        asyncio.run(read_body(half, 100, 1))


def test_a_request_that_is_cancelled_while_it_reads_is_cancelled() -> None:
    async def story() -> None:
        cleaned = asyncio.Event()

        async def never() -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        reading = asyncio.ensure_future(read_body(never, 100, 60_000))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert cleaned.is_set()

    asyncio.run(story())
