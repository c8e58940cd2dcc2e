"""Who may speak to this process: bearers of one of a few tokens, or everybody when only this machine can reach it.

Tokens are compared by digest and in constant time, each time all of them, so that neither how much of a token was
right nor which of several matched can be told from the time it took.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from weft.model.errors import Unauthorized

SCHEME: Final = b"Bearer "
HEADER_BYTES_MAX: Final = 8_192
"""A token is some dozens of bytes; hashing whatever is sent would be work anybody can order."""


class Gate:
    """Lets a request pass or raises `Unauthorized`. Without tokens it stands open."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked."""
        return not self._digests

    def check(self, authorization: bytes | None) -> None:
        """Check the Authorization header of a request."""
        if not self._digests:
            return
        if authorization is None or not authorization.startswith(SCHEME) or len(authorization) > HEADER_BYTES_MAX:
            raise Unauthorized("this coordinator wants a token: send Authorization: Bearer TOKEN; see WEFT_TOKENS")
        digest = hashlib.sha256(authorization[len(SCHEME) :].strip()).digest()
        matches = sum(hmac.compare_digest(digest, known) for known in self._digests)
        if not matches:
            raise Unauthorized("the token is not one this coordinator accepts")
