"""What nodes and clients say to each other about objects, as engine messages. The bytes themselves never are messages.

    put     Offer ──► Granted     Chunk (written into the slot before) ──► Done, for each     Commit ──► Done
    get     Fetch ──► Granted     Stage ──► Staged (read out of the slot after), for each     Finish ──► Done

Either side may end a transfer with `Finish` at any time; one that falls silent loses its slot. An offer of what is held
already is answered `Held`, so a put that is repeated moves nothing. What if an answer is lost? The connection is lost
with it, and the transfer: the caller begins anew under the number it gave the errand, by which the node knows to take
back the slot and throw away what it had received before.
"""

from typing import Any, Final

import msgspec

from weft.model.errors import BadFrame, WeftError, from_code
from weft.model.object import ObjectHash
from weft.model.policy import ERROR_LENGTH_MAX

TOPIC: Final = 0x0B1EC7
"""The topic of all of these messages. The requests say which one they are."""


class Offer(msgspec.Struct, frozen=True, kw_only=True, tag="offer"):
    """Somebody has an object for this node to keep. `errand` is their number for it, the same each time they try."""

    object_hash: ObjectHash
    size_bytes: int
    errand: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk"):
    """The next chunk of an offered object has been written into the slot, and this is its SHA-256."""

    transfer_id: int
    index: int
    digest: bytes


class Commit(msgspec.Struct, frozen=True, kw_only=True, tag="commit"):
    """Every chunk is there: verify the whole, keep it, and say so."""

    transfer_id: int


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag="fetch"):
    """Somebody wants an object that this node keeps. `errand` as with an offer."""

    object_hash: ObjectHash
    errand: int


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """Put a chunk into the slot."""

    transfer_id: int
    index: int


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """The transfer is over, done or not."""

    transfer_id: int


Request = Offer | Chunk | Commit | Fetch | Stage | Finish


class Held(msgspec.Struct, frozen=True, kw_only=True, tag="held"):
    """The object is here already, whole."""


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """A slot at the node that answers, and an advert of it. `size_bytes` is the object's size there."""

    transfer_id: int
    size_bytes: int
    slot: str
    advert: bytes


class Staged(msgspec.Struct, frozen=True, kw_only=True, tag="staged"):
    """The chunk is in the slot, and this is the SHA-256 it was stored with."""

    size_bytes: int
    digest: bytes


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What was asked for is so."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """It could not be. The wire's own refusals know nothing of disks, so these travel as answers."""

    code: str
    message: str


Answer = Held | Granted | Staged | Done | Refused

_requests: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Request)
_answers: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Answer)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: Request | Answer) -> bytes:
    """A message as it travels."""
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """A request as it arrived. Raises `BadFrame` when it is none."""
    try:
        request: Request = _requests.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadFrame(f"this is no request about an object: {error}") from error
    return request


def decode_answer(payload: bytes) -> Held | Granted | Staged | Done:
    """An answer as it arrived. Raises what the other side refused with, and `BadFrame` when it is no answer."""
    try:
        answer: Answer = _answers.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadFrame(f"this is no answer about an object: {error}") from error
    if isinstance(answer, Refused):
        raise from_code(answer.code, answer.message)
    return answer


def refusal(error: WeftError) -> Refused:
    """An error as it is told to the other side."""
    return Refused(code=error.code, message=error.message[:ERROR_LENGTH_MAX])
