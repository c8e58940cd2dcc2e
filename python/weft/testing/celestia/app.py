"""The double's door: HTTP as a node answers it, and JSON-RPC as its library reads it.

Everything wrong with the request itself is answered with 400 or 500 and a JSON error; everything the node itself says
is 200 and an error of code 1; what is refused before it is read is plain text.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from weft.testing.celestia.chain import ChainDouble
from weft.testing.celestia.methods import METHODS, NodeError, Permission, WrongRequest

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_PARSE_ERROR: Final = -32700
_INVALID_REQUEST: Final = -32600
_METHOD_NOT_FOUND: Final = -32601
_INVALID_PARAMS: Final = -32602


def mint_token(secret: bytes, *allow: str, expires_at_s: float | None = None) -> str:
    """A node's token: a JWT signed with HS256 that allows these permissions."""
    claims: dict[str, Any] = {"Allow": list(allow), "Nonce": "", "ExpiresAt": "0001-01-01T00:00:00Z"}
    if expires_at_s is not None:
        claims["ExpiresAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_at_s))
    head = _spell(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = _spell(json.dumps(claims).encode())
    return f"{head}.{body}.{_spell(hmac.digest(secret, f'{head}.{body}'.encode(), hashlib.sha256))}"


class NodeDouble:
    """An ASGI application that answers as a node does. Its knobs may be turned while it serves.

    `secret` None lifts the need for tokens, as `--rpc.skip-auth` does. `latency_ms` is waited before each answer.
    `status` answers everything with that status and plain text: 429 or 503. `is_syncing` is a node that lags behind.
    """

    def __init__(self, chain: ChainDouble, secret: bytes | None, *, connections_max: int = 500) -> None:
        self.chain = chain
        self.latency_ms = 0
        self.status: int | None = None
        self.is_syncing = False
        self.calls: Counter[str] = Counter()
        self._secret = secret
        self._connections_max = connections_max
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "a node speaks HTTP here"
        if self.status is not None or self._open >= self._connections_max:
            status = self.status or 503
            text = {429: b"Too Many Requests\n", 503: b"Service Unavailable\n"}.get(status, b"error\n")
            await _answer(send, status, text, b"text/plain; charset=utf-8")
            return
        self._open += 1
        try:
            status, body = await self._serve(scope, receive)
        finally:
            self._open -= 1
        await _answer(send, status, body, b"application/json" if body.startswith((b"{", b"[")) else b"text/plain")

    async def produce_blocks(self, block_ms: int) -> None:
        """Make a block every so often, for ever."""
        while True:
            await asyncio.sleep(block_ms / 1_000)
            self.chain.produce()

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        if self.latency_ms:
            await asyncio.sleep(self.latency_ms / 1_000)
        allowed = self._allowed(dict(scope["headers"]).get(b"authorization"))
        if allowed is None:
            return 401, b""
        if scope["method"] != "POST":
            return 405, b"method not allowed\n"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                return _protocol(None, _PARSE_ERROR, f"request bigger than maximum {BODY_BYTES_MAX} allowed")
            if not message.get("more_body"):
                break
        try:
            asked = json.loads(body)
        except ValueError as error:
            return _protocol(None, _PARSE_ERROR, f"unmarshaling request: {error}")
        if isinstance(asked, list):
            if not asked:
                return _protocol(None, _INVALID_REQUEST, "Invalid request")
            answers = [await self._answer_one(one, allowed) for one in asked]
            return 200, json.dumps([answer for _, answer in answers]).encode()
        status, answer = await self._answer_one(asked, allowed)
        return status, json.dumps(answer).encode()

    async def _answer_one(self, asked: Any, allowed: frozenset[str]) -> tuple[int, dict[str, Any]]:
        number = asked.get("id") if isinstance(asked, dict) else None
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return 400, _error(number, _INVALID_REQUEST, "Invalid request")
        name, params = asked["method"], asked.get("params")
        self.calls[name] += 1
        method = METHODS.get(name)
        if method is None:
            return 500, _error(number, _METHOD_NOT_FOUND, f"method '{name}' not found")
        if method.is_subscription:
            return 500, _error(
                number, _METHOD_NOT_FOUND, f"method '{name}' not supported in this mode (no out channel support)"
            )
        if not isinstance(params, list) or len(params) != method.param_count:
            given = len(params) if isinstance(params, list) else 0
            return 500, _error(
                number,
                _INVALID_PARAMS,
                f"wrong param count (method '{name}'): {given} != {method.param_count}",
            )
        if method.permission.value not in allowed:
            short = name.partition(".")[2]
            said = f"missing permission to invoke '{short}' (need '{method.permission.value}')"
            return 200, _error(number, 1, said)
        try:
            return 200, {"jsonrpc": "2.0", "result": await method.answer(self, params), "id": number}
        except NodeError as error:
            return 200, _error(number, 1, str(error))
        except WrongRequest as error:
            return 500, _error(number, _INVALID_PARAMS, str(error))
        except (AttributeError, TypeError) as error:
            # What a nil pointer is to a node written in Go.
            return 200, _error(number, 0, f"fatal error calling '{name}': panic in rpc method '{name}': {error}")

    def _allowed(self, authorization: bytes | None) -> frozenset[str] | None:
        """The permissions a request has, or None for a token that is not ours."""
        every = frozenset(permission.value for permission in Permission)
        if self._secret is None:
            return every
        if authorization is None:
            return frozenset({Permission.PUBLIC.value})
        text = authorization.decode("latin-1")
        parts = text.removeprefix("Bearer ").split(".")
        if not text.startswith("Bearer ") or len(parts) != 3:
            return None
        head, body, seal = parts
        expected = _spell(hmac.digest(self._secret, f"{head}.{body}".encode(), hashlib.sha256))
        if not hmac.compare_digest(seal, expected):
            return None
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        expires = str(claims.get("ExpiresAt", ""))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if expires and not expires.startswith("0001-") and expires < now:
            return None
        return every & frozenset(claims.get("Allow", ()))


def _protocol(number: Any, code: int, said: str) -> tuple[int, bytes]:
    status = 400 if code == _INVALID_REQUEST else 500
    return status, json.dumps(_error(number, code, said)).encode()


def _error(number: Any, code: int, said: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": said}, "id": number}


def _spell(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def _answer(send: Send, status: int, body: bytes, media_type: bytes) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
