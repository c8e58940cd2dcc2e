"""Signing and verifying: Ed25519 (RFC 8032), one key a purpose, and no signature that could stand for another.

Every signature is over a domain and a message. The domain's name, with its length before it, goes in front of what is
signed, so that what a validator signs can never be shown as something a publisher signed, whatever the bytes are.

A cluster signs what it publishes with one key that follows from its secret (`SigningKey.from_secret`). So every
coordinator of the cluster signs alike, and a machine that lost its disk and still has the secret can tell which blobs
of a place open to anybody are its own. Who learns the secret can sign as the cluster; it opens memory as well.
"""

import hashlib
import hmac
from enum import StrEnum
from typing import Final, NewType

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from weft.model.errors import BadSignature

PublicKey = NewType("PublicKey", bytes)
Signature = NewType("Signature", bytes)

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_PREFIX: Final = b"weft signature/1\0"
_SALT: Final = b"weft/1 signing key"


class Domain(StrEnum):
    """What a signature is for. A new purpose is a new line; a line never changes."""

    PUBLISHER = "publisher"
    """A coordinator puts a blob where anybody may put blobs."""
    VALIDATOR = "validator"
    """A validator says that it keeps a blob for a cluster."""


class SigningKey:
    """Signs in one domain. Its secret half is never shown, not even by `repr`."""

    __slots__ = ("_secret", "domain", "public")

    def __init__(self, seed: bytes, domain: Domain) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"the seed of an Ed25519 key has {SEED_BYTES} bytes, not {len(seed)}")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self.public = PublicKey(public)
        self.domain = domain

    @classmethod
    def from_secret(cls, cluster_secret: bytes, domain: Domain) -> "SigningKey":
        """The key of a cluster for a domain: the same on every machine that knows the secret."""
        return cls(derive_seed(cluster_secret, f"ed25519 {domain}".encode()), domain)

    def sign(self, message: bytes) -> Signature:
        """The signature of a message, in this key's domain. The same message gives the same signature."""
        return Signature(crypto_sign(_framed(self.domain, message), self._secret)[:SIGNATURE_BYTES])

    def __repr__(self) -> str:
        return f"SigningKey({self.domain}, public={self.public.hex()})"


def verify(public: PublicKey, domain: Domain, message: bytes, signature: bytes) -> None:
    """Raise `BadSignature` unless the holder of this key signed this message in this domain."""
    if len(signature) == SIGNATURE_BYTES:
        try:
            crypto_sign_open(signature + _framed(domain, message), public)
        except (BadSignatureError, ValueError):
            pass
        else:
            return
    raise BadSignature(
        f"the signature is not one of {public.hex()} as {domain} over this message", public_key=public.hex()
    )


def validator_statement(cluster: PublicKey, commitment: str, validator_id: str) -> bytes:
    """What a validator signs when it keeps a blob: for which cluster, which blob, and as whom it speaks.

    A cluster is named by the key it publishes with, which a machine that knows the secret and nothing else knows too.
    """
    return b"".join((cluster, bytes.fromhex(commitment), validator_id.encode()))


def parse_public_key(text: str) -> PublicKey | None:
    """A public key as people write it, 64 hex digits, or None when it is not one."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return PublicKey(key) if len(key) == PUBLIC_KEY_BYTES else None


def derive_seed(secret: bytes, info: bytes) -> bytes:
    """32 bytes that follow from a secret and a purpose and tell nothing of either: one block of HKDF-SHA256."""
    # RFC 5869. The salt is the same for everybody: the secret alone has to be unknown.
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def _framed(domain: Domain, message: bytes) -> bytes:
    name = domain.encode()
    return b"".join((_PREFIX, bytes((len(name),)), name, message))
