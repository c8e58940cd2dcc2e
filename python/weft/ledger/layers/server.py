"""A witness as a layer sees it: one server that keeps blobs over HTTP, and what its answers mean.

The awkward question is what a failed put leaves behind. When no connection was made, or the server said that it kept
nothing, nothing happened (`LayerFailed`). When the answer was lost or the server could not say, the blob may be kept
(`LayerUnknown`); putting it again is harmless and settles it.
"""

from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

import msgspec

from weft.ledger.layer import Commitment, commit_to
from weft.ledger.layers.ports import Answer, Http
from weft.model.errors import (
    BlobDamaged,
    BlobMissing,
    Disconnected,
    LayerFailed,
    LayerRefused,
    LayerUnknown,
    TimedOut,
    Unreachable,
)
from weft.model.policy import LAYER_BLOB_BYTES_MAX, LAYER_LIST_MAX

T = TypeVar("T")
_LIST_LINE_BYTES: Final = 256
_CONTROL_BYTES_MAX: Final = LAYER_LIST_MAX * _LIST_LINE_BYTES
"""What an answer that is no blob may have: a full page of the list."""

_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says when it keeps a blob; a validator says it under its name."""

    commitment: _Hash
    height: _Count
    validator_id: str = ""
    signature_hex: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One blob of a server's list."""

    commitment: _Hash
    height: _Count
    size_bytes: _Count


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a server's list. `next` goes on behind it."""

    blobs: list[Line]
    next: _Count
    is_end: bool


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is, and who."""

    status: str
    height: _Count
    validator_id: str = ""
    public_key: str = ""


class BlobServer:
    """One server. Every verb ends within the time it is given."""

    def __init__(self, http: Http, url: str, token: str | None, layer: str) -> None:
        self._http = http
        self._layer = layer
        self._headers: dict[str, str] = {} if token is None else {"authorization": f"Bearer {token}"}
        self.url = url

    async def put(self, commitment: Commitment, blob: bytes, headers: Mapping[str, str], timeout_ms: int) -> Put:
        """Put a blob. Raises `LayerFailed`, `LayerUnknown`, `LayerRefused`."""
        try:
            answer = await self._send("PUT", f"/blob/{commitment}", blob, headers, timeout_ms)
        except Unreachable as error:
            raise self._failed("is not there") from error
        except (Disconnected, TimedOut) as error:
            raise self._unknown(commitment, "did not answer") from error
        match answer.status:
            case 200:
                try:
                    put = self._decode(answer, Put, "to a put")
                except LayerFailed as error:
                    raise self._unknown(commitment, "answered what nobody understands") from error
                if put.commitment != commitment:
                    raise self._unknown(commitment, f"answered about {put.commitment}")
                return put
            case 500 | 502 | 504:
                raise self._unknown(commitment, f"said {answer.status}")
            case _:
                raise self._said(answer)

    async def get(self, commitment: Commitment, timeout_ms: int) -> bytes:
        """A blob, verified. Raises `BlobMissing`, `BlobDamaged`, `LayerFailed`."""
        answer = await self._ask("GET", f"/blob/{commitment}", timeout_ms)
        if answer.status == 404:
            raise BlobMissing(f"{self.url} keeps no blob {commitment}", layer=self._layer, commitment=commitment)
        if answer.status == 200 and commit_to(answer.body) == commitment:
            return answer.body
        if answer.status in (200, 502):
            raise BlobDamaged(
                f"{self.url} has other bytes where blob {commitment} was", layer=self._layer, commitment=commitment
            )
        raise self._said(answer)

    async def list(self, after: int, count_max: int, timeout_ms: int) -> Page:
        """What is kept above a height. Raises `LayerFailed`."""
        answer = await self._ask("GET", f"/blobs?from={after}&limit={min(count_max, LAYER_LIST_MAX)}", timeout_ms)
        if answer.status != 200:
            raise self._said(answer)
        page = self._decode(answer, Page, "with its list")
        heights = [after, *(line.height for line in page.blobs)]
        if heights != sorted(set(heights)) or page.next != heights[-1]:
            raise self._failed("listed blobs out of order")
        if not page.blobs and not page.is_end:
            raise self._failed("listed nothing and said that more follows")
        return page

    async def health(self, timeout_ms: int) -> Health:
        """How it is. Raises `LayerFailed` when it cannot take a blob now."""
        answer = await self._ask("GET", "/health", timeout_ms)
        if answer.status != 200:
            raise self._said(answer)
        return self._decode(answer, Health, "about its health")

    async def _ask(self, method: str, target: str, timeout_ms: int) -> Answer:
        try:
            return await self._send(method, target, b"", {}, timeout_ms)
        except (Unreachable, Disconnected, TimedOut) as error:
            raise self._failed("did not answer") from error

    async def _send(self, method: str, target: str, body: bytes, headers: Mapping[str, str], timeout_ms: int) -> Answer:
        return await self._http.send(
            method,
            self.url + target,
            headers={**self._headers, **headers},
            body=body,
            timeout_ms=max(1, timeout_ms),
            answer_bytes_max=max(LAYER_BLOB_BYTES_MAX, _CONTROL_BYTES_MAX),
        )

    def _decode(self, answer: Answer, kind: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._failed(f"answered {what} in no shape this version knows") from error

    def _said(self, answer: Answer) -> LayerFailed:
        """What a status that is no success means: whether asking again may help."""
        said = f"said {answer.status}{_sentence(answer.body)}"
        if answer.status in (401, 403):
            return LayerRefused(
                f"{self.url} does not take this coordinator's token ({answer.status}); set it right",
                layer=self._layer,
                url=self.url,
            )
        if 400 <= answer.status < 500 and answer.status not in (408, 429):
            return LayerRefused(f"{self.url} {said}", layer=self._layer, url=self.url)
        return self._failed(said)

    def _failed(self, what: str) -> LayerFailed:
        return LayerFailed(f"{self.url} {what}", layer=self._layer, url=self.url)

    def _unknown(self, commitment: Commitment, what: str) -> LayerUnknown:
        return LayerUnknown(
            f"{self.url} {what}, so blob {commitment} may be kept there or not; put it again to know",
            layer=self._layer,
            url=self.url,
            commitment=commitment,
        )


def _sentence(body: bytes) -> str:
    """The sentence of an error's envelope, where there is one."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    text = said.get("error") if isinstance(said, dict) else None
    return f": {text[:256]}" if isinstance(text, str) else ""
