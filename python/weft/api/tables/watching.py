"""Following the log."""

from typing import Final

from weft.api.bodies import events
from weft.api.errors import Family
from weft.api.route import Route
from weft.model import errors

WATCHING: Final[tuple[Route, ...]] = (
    Route(
        operation="watch_events",
        method="GET",
        path="/events",
        summary="Every event after a position, as server-sent events (text/event-stream), each an EventInfo.",
        family=Family.WEFT,
        query=events.EventsQuery,
        media="text/event-stream",
        part=events.EventInfo,
        errors=(errors.PositionAhead, errors.PositionCompacted, errors.Unavailable),
    ),
)
