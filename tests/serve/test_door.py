"""The door as an ASGI application: what is HTTP it answers itself, and what is not it leaves to Starlette."""

from typing import Any

from tests.worlds import Door, run


async def asked(door: Door, scope: dict[str, Any], *messages: str) -> list[str]:
    """What an application says, in order, to somebody who sends these messages."""
    said: list[str] = []
    sending = iter(messages)

    async def receive() -> Any:
        return {"type": next(sending)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await door.coordinator.app(scope, receive, send)
    return said


def test_a_websocket_is_closed_and_a_lifespan_begins_and_ends() -> None:
    async def story(door: Door) -> None:
        socket = {"type": "websocket", "path": "/events", "headers": [], "query_string": b""}
        assert await asked(door, socket, "websocket.connect") == ["websocket.close"]
        said = await asked(door, {"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown")
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(story)
