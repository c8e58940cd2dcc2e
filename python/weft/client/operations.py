"""From an operation of the route table and named values to a call: what goes into the path, the query and the body.

    arrange("place_key", {"hash": "abc", "rf": 2})          GET /placement/abc?rf=2
    arrange("schedule", {"cpu_req": 0.5, "explain": True})  POST /schedule?explain=1 with {"cpu_req": 0.5}

The table says which names there are, so a name it does not know is an error here and not something a server ignores.
Where a path and a body both have a name, the value is the path's; a body with such a name is passed whole, as `body`.
"""

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

import msgspec

from weft.api.routes import ROUTES, Route
from weft.client.call import Call
from weft.model.errors import BadArgument

AT_LEAST: Final = "at_least"

_BY_OPERATION: Final = {route.operation: route for route in ROUTES}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


def operations() -> list[str]:
    """Every operation there is."""
    return sorted(_BY_OPERATION)


def arrange(operation: str, values: Mapping[str, Any], body: Any = None, token: str | None = None) -> Call[Any]:
    """The call. Raises `BadArgument` for a name or a value the route does not take."""
    route = _BY_OPERATION.get(operation)
    if route is None:
        raise BadArgument(f"there is no operation {operation!r}", operation=operation)
    left = dict(values)
    path = {name: str(_taken(left, name, operation)) for name in _PARAMETER.findall(route.path)}
    query = _take_query(route, left)
    if body is None and route.body is not None:
        body = _take_body(route.body, left, operation)
    if left:
        raise BadArgument(f"{operation} takes no {', '.join(sorted(left))}", operation=operation)
    return Call(
        operation=operation,
        reply=route.reply if route.reply is not None else NoneType,
        path=path,
        query=query,
        body=body,
        wait_ms=_wait_ms(query, body),
        token=token,
    )


def _taken(left: dict[str, Any], name: str, operation: str) -> Any:
    try:
        return left.pop(name)
    except KeyError:
        raise BadArgument(f"{operation} needs {name}", operation=operation) from None


def _take_query(route: Route, left: dict[str, Any]) -> dict[str, str | int]:
    """The query: the fields of its type, under the names they have on the wire, and what every read takes."""
    names = (
        {} if route.query is None else {field.name: field.encode_name for field in msgspec.structs.fields(route.query)}
    )
    if route.method == "GET":
        names[AT_LEAST] = AT_LEAST
    given = {names[name]: left.pop(name) for name in list(left) if name in names}
    return {
        name: int(value) if isinstance(value, bool) else value for name, value in given.items() if value is not None
    }


def _take_body(kind: type, left: dict[str, Any], operation: str) -> Any:
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    given = {names[name]: left.pop(name) for name in list(left) if name in names}
    try:
        return msgspec.convert(msgspec.to_builtins(given), kind)
    except msgspec.ValidationError as error:
        raise BadArgument(f"{operation}: {error}", operation=operation) from error


def _wait_ms(query: Mapping[str, Any], body: Any) -> int:
    """How long the coordinator is asked to wait before it answers."""
    asked = query.get("wait_ms", getattr(body, "wait_ms", 0))
    return asked if isinstance(asked, int) else 0
