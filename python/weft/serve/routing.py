"""Finding the route of a request: a look in a dictionary for plain paths, a short walk for those with parameters.

A request pays for one dictionary instead of one regular expression a route.
"""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from weft.api.errors import Family
from weft.api.routes import Route
from weft.model.errors import MethodNotAllowed, RouteNotFound
from weft.serve.call import Handler

_POOLS_SEGMENT: Final = "v2"
"""What every path of the node seed begins with, and no other seed's."""


class Bound:
    """A route with what answers it, and what can be prepared for it once. A closed one is handed nothing decoded."""

    __slots__ = ("decoder", "empty_body", "handler", "is_closed", "route")

    def __init__(self, route: Route, handler: Handler, *, is_closed: bool = False) -> None:
        self.route = route
        self.handler = handler
        self.is_closed = is_closed
        decodes = route.body is not None and not is_closed
        self.decoder: msgspec.json.Decoder[Any] | None = msgspec.json.Decoder(route.body) if decodes else None
        # A route whose body has no fields takes no body for an empty one.
        self.empty_body: Final = b"" if route.body is None or msgspec.structs.fields(route.body) else b"{}"


class _Template:
    """A path with parameters, taken apart."""

    __slots__ = ("by_method", "fixed", "parameters")

    def __init__(self, segments: list[str]) -> None:
        self.fixed = [(place, text) for place, text in enumerate(segments) if not text.startswith("{")]
        self.parameters = [(place, text[1:-1]) for place, text in enumerate(segments) if text.startswith("{")]
        self.by_method: dict[str, Bound] = {}

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters, when the path fits."""
        for place, text in self.fixed:
            if segments[place] != text:
                return None
        return {name: segments[place] for place, name in self.parameters}


class RouteTable:
    """Every route, found by method and path."""

    def __init__(self, routes: Iterable[Bound]) -> None:
        self._plain: dict[str, dict[str, Bound]] = {}
        self._templates: dict[int, dict[str, _Template]] = {}
        for bound in routes:
            path, method = bound.route.path, bound.route.method
            if "{" not in path:
                self._plain.setdefault(path, {})[method] = bound
                continue
            segments = path.split("/")
            by_path = self._templates.setdefault(len(segments), {})
            by_path.setdefault(path, _Template(segments)).by_method[method] = bound

    def find(self, method: str, path: str, raw_path: bytes = b"") -> tuple[Bound, dict[str, str]]:
        """The route and its parameters. Raises `RouteNotFound` or `MethodNotAllowed`.

        `raw_path` is the path as it was sent: a slash that was escaped there is part of a key and divides nothing.
        """
        if (plain := self._plain.get(path)) is not None:
            return self._choose(plain, method, path), {}
        segments = path.split("/")
        for template in self._templates.get(len(segments), {}).values():
            if (parameters := template.match(segments)) is not None:
                return self._choose(template.by_method, method, path), parameters
        if b"%2f" in raw_path.lower():
            segments = [unquote(segment) for segment in raw_path.decode("latin-1").partition("?")[0].split("/")]
            for template in self._templates.get(len(segments), {}).values():
                bound = template.by_method.get(method)
                if bound is not None and bound.route.any_key and (parameters := template.match(segments)) is not None:
                    return bound, parameters
        raise RouteNotFound(f"nothing is served at {path}")

    def family_near(self, path: str) -> Family:
        """In whose shape a request that no route answers is refused: that of its neighbours, where they have one."""
        segments = path.split("/")
        if segments[1:2] == [_POOLS_SEGMENT]:
            return Family.POOLS
        by_methods = [self._plain.get(path, {})]
        by_methods += [
            one.by_method for one in self._templates.get(len(segments), {}).values() if one.match(segments) is not None
        ]
        families = {bound.route.family for by_method in by_methods for bound in by_method.values()}
        return families.pop() if len(families) == 1 else Family.WEFT

    @staticmethod
    def _choose(by_method: dict[str, Bound], method: str, path: str) -> Bound:
        bound = by_method.get("GET" if method == "HEAD" else method)
        if bound is None:
            allowed = sorted(by_method)
            raise MethodNotAllowed(f"{path} answers to {', '.join(allowed)}, not to {method}", allowed=allowed)
        return bound
