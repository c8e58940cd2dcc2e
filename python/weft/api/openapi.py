"""The OpenAPI document, derived from the route table and the types it names."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from weft.api.bodies.fields import (
    AttachmentIdText,
    IncarnationText,
    NodeIdText,
    ObjectHashText,
    PlacementIdText,
    RegionNameText,
    RequestIdText,
)
from weft.api.errors import Family, code_of_class, status_of_class
from weft.api.routes import Route

VERSION: Final = "3.1.0"
_COMPONENTS: Final = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")

_SEGMENTS: Final[dict[str, Any]] = {
    "attachment_id": AttachmentIdText,
    "hash": ObjectHashText,
    "name": RegionNameText,
    "node_id": NodeIdText,
    "placement_id": PlacementIdText,
}
"""What a parameter of a path may be. One that is not here is any text, and its route says what is wrong with it."""

_WEFT_ENVELOPE: Final[dict[str, Any]] = {
    "title": "WeftError",
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string"},
        "fields": {"type": "object"},
        "temporary": {"type": "boolean"},
    },
    "required": ["error", "code", "fields", "temporary"],
}

_TOLD: Final = {"type": "object", "properties": {"number": {"type": "integer"}, "reason": {"type": "string"}}}
"""The facts every family tells; `api/errors.py` has them."""

_ENVELOPES: Final[dict[Family, dict[str, Any]]] = {
    Family.CLUSTER: {
        "title": "ClusterError",
        "type": "object",
        "properties": {"detail": {"type": "string"}, "code": {"type": "string"}, "fields": _TOLD},
        "required": ["detail", "code"],
    },
    Family.POOLS: {
        "title": "PoolsError",
        "type": "object",
        "properties": {
            "success": {"type": "boolean", "const": False},
            "message": {"type": "string"},
            "node_id": {"type": ["string", "null"]},
            "code": {"type": "string"},
            "fields": _TOLD,
        },
        "required": ["success", "message", "node_id", "code"],
    },
    Family.STORAGE: _WEFT_ENVELOPE,
    Family.DA: {
        "title": "DaError",
        "type": "object",
        "properties": {
            "success": {"type": "boolean", "const": False},
            "error": {"type": "string"},
            "code": {"type": "string"},
            "fields": _TOLD,
        },
        "required": ["success", "error", "code"],
    },
    Family.WEFT: _WEFT_ENVELOPE,
}


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The document for these routes."""
    types = [kind for route in routes for kind in (route.body, route.reply, route.part) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_COMPONENTS)
    schema_of = dict(zip(types, schemas, strict=True))
    for component in components.values():
        # Events hold incarnations as numbers, and `encode_event` writes them as every other body does.
        if component.get("properties", {}).get("incarnation") == {"type": "integer"}:
            component["properties"]["incarnation"] = msgspec.json.schema(IncarnationText)
    components.update({schema["title"]: schema for schema in _ENVELOPES.values()})
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": VERSION,
        "info": {"title": "Weft coordinator", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _operation(route: Route, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.family.value],
        "parameters": _parameters(route),
        "responses": _responses(route, schema_of),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schema_of[route.body])}
    if route.open_to_all:
        operation["security"] = []
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _segment(name, route)}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        described = msgspec.json.schema_components([route.query])[1]
        properties = described[route.query.__name__]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()
        ]
    if route.method == "GET":
        parameters.append(_AT_LEAST)
    parameters.append(
        {
            "name": "Weft-Request-Id",
            "in": "header",
            "required": False,
            "schema": msgspec.json.schema(RequestIdText),
            "description": "Repeating a request under its id gives the first answer again.",
        }
    )
    return parameters


def _segment(name: str, route: Route) -> dict[str, Any]:
    kind = None if route.any_key else _SEGMENTS.get(name)
    return {"type": "string", "minLength": 1} if kind is None else msgspec.json.schema(kind)


def _responses(route: Route, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary, "headers": {"Weft-Position": _POSITION}}
    content = _json(schema_of[route.reply]) if route.reply is not None else {}
    if route.media is not None:
        content[route.media] = {"schema": _TEXT if route.part is None else _event(schema_of[route.part])}
    if content:
        success["content"] = content
    responses: dict[str, Any] = {str(route.status): success}
    codes: dict[int, list[str]] = {}
    for kind in route.outcomes:
        codes.setdefault(status_of_class(kind, route.family), []).append(code_of_class(kind, route.family))
    for status, names in sorted(codes.items()):
        schema = {"$ref": _COMPONENTS.format(name=_ENVELOPES[route.family]["title"])}
        responses[str(status)] = {"description": " · ".join(names), "content": _json(schema)}
    return responses


_AT_LEAST: Final = {
    "name": "at_least",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Wait until the log has come to this position; 504 NOT_REACHED when it does not in time.",
}
_TEXT: Final = {"type": "string"}
_POSITION: Final = {"description": "The place in the log this answer follows from.", "schema": {"type": "integer"}}


def _event(carried: dict[str, Any]) -> dict[str, Any]:
    """One event of a stream: its place, its kind, and what it carries as JSON in its data."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": carried}
    return {"type": "object", "properties": {"id": _TEXT, "event": _TEXT, "data": data}, "required": ["data"]}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
