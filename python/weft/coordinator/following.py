"""What a coordinator answers that does not write: what follows from state, and for the rest the writer's name.

Whatever a beat or a report told the writer is in the writer's memory alone, so a follower would answer it wrongly. The
list is of what it may answer, so that a new route is the writer's until somebody has thought about it.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from weft.coordinator.writer import Writer
from weft.serve import Call, Handler

FROM_STATE: Final = frozenset(
    {
        "list_endpoints",
        "list_objects",
        "list_regions",
        "list_storage_nodes",
        "place_key",
        "show_cluster",
        "show_endpoint",
        "show_health",
        "show_metrics",
        "show_object",
        "show_page",
        "show_region",
        "show_scheduler_config",
        "show_state",
        "show_storage_node",
        "show_system_info",
        "rebuild_state",
        "watch_events",
    }
)
"""What every coordinator answers, each from its own state and with the position it stands at."""


def answer_from_state(handlers: Mapping[str, Handler], writer: Writer, also: frozenset[str]) -> dict[str, Handler]:
    """The handlers of a coordinator that may follow. `also` are operations that are about this process itself."""
    return {
        operation: handler if operation in FROM_STATE or operation in also else _if_reigning(handler, writer)
        for operation, handler in handlers.items()
    }


def _if_reigning(handler: Handler, writer: Writer) -> Handler:
    def answer(call: Call) -> Awaitable[Any]:
        if not writer.reigns:
            raise writer.refusal()
        return handler(call)

    return answer
