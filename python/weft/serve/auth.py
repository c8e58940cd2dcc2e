"""Who may speak to this process: bearers of one of a few tokens, or everybody when only this machine can reach it.

Tokens are compared in constant time, each time all of them, so that neither how much of a token was right nor which of
several matched can be told from the time it took. Nearly every caller spells the header in the one usual way, so the
whole header is compared with that spelling first; any other spelling, and any other token, is compared by digest. A
token never appears in a line or an answer; what does is its fingerprint, `token:` and six digits of its digest.

The tokens may be changed at any time (`accept`), so that an old and a new one hold side by side while they are changed.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable
from typing import Final

from weft.model.errors import BadToken, MissingToken

SCHEME: Final = b"Bearer "
HEADER_BYTES_MAX: Final = 8_192
"""A token is some dozens of bytes; hashing whatever is sent would be work anybody can order."""
FINGERPRINT_DIGITS: Final = 6
LOCALHOST: Final = "localhost"
"""Who spoke, when nobody had to say."""
MISSING_TOKEN_NUMBER: Final = 40_101
BAD_TOKEN_NUMBER: Final = 40_102


_VISIBLE: Final = bytes(range(0x21, 0x7F))
"""The letters of a token; what is left of one without them does not belong in a header."""


class Gate:
    """Lets a request pass or raises `Unauthorized`. Without tokens it stands open.

    `exempt` operations want no token; with `loopback_exempt` neither does whoever is on this machine.
    """

    def __init__(
        self, tokens: Iterable[str] = (), *, exempt: Collection[str] = (), loopback_exempt: bool = False
    ) -> None:
        self._digests: list[bytes] = []
        self._spelt: list[tuple[bytes, str]] = []
        self._exempt = frozenset(exempt)
        self._loopback_exempt = loopback_exempt
        self.accept(tokens)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked."""
        return not self._digests

    def accept(self, tokens: Iterable[str]) -> None:
        """These tokens are good from now on, and no others."""
        encoded = [token.encode() for token in tokens]
        self._digests = [hashlib.sha256(token).digest() for token in encoded]
        self._spelt = [
            (SCHEME + token, _fingerprint(digest))
            for token, digest in zip(encoded, self._digests, strict=True)
            if _token_of(SCHEME + token) == token
        ]

    def check(self, authorization: bytes | None, operation: str = "", client_host: str | None = None) -> str:
        """Check the Authorization header of a request; returns who spoke, as the log may name it."""
        if not self._digests or operation in self._exempt:
            return LOCALHOST
        if self._loopback_exempt and client_host is not None and _is_loopback(client_host):
            return LOCALHOST
        if (caller := self._recognise(authorization)) is not None:
            return caller
        token = _token_of(authorization)
        if token is None:
            raise MissingToken(
                "this coordinator wants a token: send Authorization: Bearer TOKEN; see WEFT_TOKENS",
                number=MISSING_TOKEN_NUMBER,
            )
        digest = hashlib.sha256(token).digest()
        matches = sum(hmac.compare_digest(digest, known) for known in self._digests)
        if not matches:
            raise BadToken("the token is not one this coordinator accepts", number=BAD_TOKEN_NUMBER)
        return _fingerprint(digest)

    def _recognise(self, authorization: bytes | None) -> str | None:
        """Who spoke, when the header is one of the tokens in its usual spelling.

        How long it takes follows from the length of what was sent and from how many tokens there are.
        """
        caller = None
        if authorization is not None:
            for spelt, fingerprint in self._spelt:
                if hmac.compare_digest(spelt, authorization):
                    caller = fingerprint
        return caller


def fingerprint(authorization: bytes | None) -> str | None:
    """What the log may say of a header that was sent: `token:` and six digits, or None without a token in it."""
    token = _token_of(authorization)
    return None if token is None else _fingerprint(hashlib.sha256(token).digest())


def _token_of(authorization: bytes | None) -> bytes | None:
    """The token in a header, or None where there is none that could be one."""
    if authorization is None or not authorization.startswith(SCHEME) or len(authorization) > HEADER_BYTES_MAX:
        return None
    token = authorization[len(SCHEME) :].strip()
    return token if token and not token.translate(None, _VISIBLE) else None


def _fingerprint(digest: bytes) -> str:
    return f"token:{digest.hex()[:FINGERPRINT_DIGITS]}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
