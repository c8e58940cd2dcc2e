"""JSON-RPC 2.0 as a Celestia node speaks it: positional parameters, a bearer token, and errors that are sentences.

All of the node's own errors have code 1, so what one means can only be told from its text: `MEANINGS` is the table.
What is answered before the node itself is reached (too many connections, too many requests) is plain text with a
status.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final

import msgspec

from weft.ledger.layers.ports import Answer, Http
from weft.model.errors import Disconnected, TimedOut, Unreachable
from weft.model.policy import CELESTIA_ANSWER_BYTES_MAX

_SENTENCE_LENGTH_MAX: Final = 300


class Meaning(Enum):
    """What a failed call means to whoever made it."""

    NOTHING_HAPPENED = auto()
    """The node did nothing; trying again may help."""
    UNKNOWN = auto()
    """It may have done it, or may yet."""
    REFUSED = auto()
    """It will say the same again."""
    NOT_FOUND = auto()
    PRUNED = auto()
    """The node no longer has what is so old."""
    FUTURE = auto()
    """The node has not come so far yet."""


MEANINGS: Final[tuple[tuple[str, Meaning], ...]] = (
    ("timed out waiting for tx to be included", Meaning.UNKNOWN),
    ("tx already in mempool", Meaning.UNKNOWN),
    ("context deadline", Meaning.UNKNOWN),
    ("context canceled", Meaning.UNKNOWN),
    ("incorrect account sequence", Meaning.NOTHING_HAPPENED),
    ("was evicted", Meaning.NOTHING_HAPPENED),
    ("was rejected by the node with execution code", Meaning.NOTHING_HAPPENED),
    ("estimated gas price exceeds max gas price", Meaning.NOTHING_HAPPENED),
    ("blob: over size limit", Meaning.REFUSED),
    ("request bigger than maximum", Meaning.REFUSED),
    ("missing permission to invoke", Meaning.REFUSED),
    ("wrong param count", Meaning.REFUSED),
    ("header: given height is from the future", Meaning.FUTURE),
    ("header: syncing in progress", Meaning.NOTHING_HAPPENED),
    ("is below tail", Meaning.PRUNED),
    ("blob: not found", Meaning.NOT_FOUND),
    ("share: data not available", Meaning.NOTHING_HAPPENED),
)
_TOO_LARGE: Final = ("blob: over size limit", "request bigger than maximum", "was answered with 413")
"""How a node says that it might take less at once."""
_METHOD_CODES: Final = frozenset({-32700, -32600, -32601, -32602})


class CallFailed(Exception):  # noqa: N818 — it names what happened, as the tree of errors does.
    """A call that gave no result. Only this folder sees it; the layer says what it means there."""

    def __init__(self, meaning: Meaning, sentence: str) -> None:
        super().__init__(sentence)
        self.meaning = meaning
        self.is_too_large = meaning is Meaning.REFUSED and any(text in sentence for text in _TOO_LARGE)


class Rpc:
    """Calls to one node."""

    def __init__(self, http: Http, url: str, token: str | None, auth_header: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"content-type": "application/json"}
        if token is not None:
            # Providers that want the token in a header of their own want it bare.
            bare = auth_header.lower() != "authorization"
            self._headers[auth_header] = token if bare else f"Bearer {token}"

    async def call(self, method: str, params: Sequence[Any], timeout_ms: int) -> Any:
        """The result of a call, which may be None. Raises `CallFailed`."""
        body = msgspec.json.encode(_request(1, method, params))
        return _result(method, self._decode(method, await self._post(method, body, timeout_ms)))

    async def call_each(self, method: str, params: Sequence[Sequence[Any]], timeout_ms: int) -> list[Any]:
        """The results of several calls of one method, sent at once. A call that failed has its `CallFailed` there."""
        body = msgspec.json.encode([_request(number, method, one) for number, one in enumerate(params)])
        decoded = self._decode(method, await self._post(method, body, timeout_ms))
        if isinstance(decoded, dict):
            # One answer for all of them: the node did not look at any.
            return [_failure_of(method, decoded)] * len(params)
        by_number = {one.get("id"): one for one in decoded if isinstance(one, dict)}
        results: list[Any] = []
        for number in range(len(params)):
            try:
                results.append(_result(method, by_number.get(number)))
            except CallFailed as error:
                results.append(error)
        return results

    async def _post(self, method: str, body: bytes, timeout_ms: int) -> bytes:
        try:
            answer = await self._http.send(
                "POST",
                self._url,
                headers=self._headers,
                body=body,
                timeout_ms=max(1, timeout_ms),
                answer_bytes_max=CELESTIA_ANSWER_BYTES_MAX,
            )
        except Unreachable as error:
            raise CallFailed(Meaning.NOTHING_HAPPENED, f"no Celestia node answers at {self._url}") from error
        except (TimedOut, Disconnected) as error:
            raise CallFailed(Meaning.UNKNOWN, f"{method}: {error.message}") from error
        # A node answers what is wrong with the request itself with 400 or 500 and a JSON error, and all else with 200.
        if answer.status != 200 and not (answer.status in (400, 500) and answer.body.startswith(b"{")):
            raise _by_status(method, answer)
        return answer.body

    def _decode(self, method: str, body: bytes) -> Any:
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CallFailed(Meaning.UNKNOWN, f"{method}: {self._url} answered with what is no JSON") from error


def meaning_of(code: int, sentence: str) -> Meaning:
    """What an error means. One nobody has met before may have done anything."""
    lower = sentence.lower()
    for text, meaning in MEANINGS:
        if text.lower() in lower:
            return meaning
    return Meaning.REFUSED if code in _METHOD_CODES else Meaning.UNKNOWN


def _request(number: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def _result(method: str, said: Any) -> Any:
    if not isinstance(said, dict):
        raise CallFailed(Meaning.UNKNOWN, f"{method} was not answered")
    if said.get("error") is not None:
        raise _failure_of(method, said)
    return said.get("result")


def _failure_of(method: str, said: dict[str, Any]) -> CallFailed:
    error = said.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    sentence = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    number = code if isinstance(code, int) else 0
    return CallFailed(meaning_of(number, sentence), f"{method}: {sentence[:_SENTENCE_LENGTH_MAX]}")


def _by_status(method: str, answer: Answer) -> CallFailed:
    text = answer.body[:_SENTENCE_LENGTH_MAX].decode(errors="replace").strip()
    sentence = f"{method} was answered with {answer.status} {text}".rstrip()
    match answer.status:
        case 401 | 403:
            return CallFailed(Meaning.REFUSED, f"{sentence}; see DA_AUTH_TOKEN")
        case 400 | 404 | 405 | 413:
            return CallFailed(Meaning.REFUSED, sentence)
        case 429 | 503:
            return CallFailed(Meaning.NOTHING_HAPPENED, sentence)
        case _:
            return CallFailed(Meaning.UNKNOWN, sentence)
