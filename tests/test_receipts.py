"""Signatures: one key a purpose, and none stands for another."""

import pytest

from weft.model.errors import BadSignature
from weft.receipts import Domain, PublicKey, SigningKey, derive_seed, parse_public_key, verify

SECRET = b"a cluster's secret"


def test_what_is_signed_verifies_under_the_public_key() -> None:
    key = SigningKey.from_secret(SECRET, Domain.PUBLISHER)
    verify(key.public, Domain.PUBLISHER, b"message", key.sign(b"message"))


def test_every_machine_that_knows_the_secret_signs_with_one_key() -> None:
    one, other = (SigningKey.from_secret(SECRET, Domain.PUBLISHER) for _ in range(2))
    assert one.public == other.public
    assert one.sign(b"message") == other.sign(b"message")


def test_another_secret_and_another_domain_are_another_key() -> None:
    keys = {SigningKey.from_secret(secret, domain).public for secret in (SECRET, b"another") for domain in Domain}
    assert len(keys) == 4


def test_a_signature_of_one_domain_does_not_stand_in_another() -> None:
    seed = bytes(range(32))
    signature = SigningKey(seed, Domain.VALIDATOR).sign(b"message")
    with pytest.raises(BadSignature):
        verify(SigningKey(seed, Domain.PUBLISHER).public, Domain.PUBLISHER, b"message", signature)


@pytest.mark.parametrize("spoil", ["message", "signature", "key", "short"])
def test_whatever_is_changed_the_signature_is_no_longer_good(spoil: str) -> None:
    key = SigningKey.from_secret(SECRET, Domain.VALIDATOR)
    message, signature, public = b"message", bytes(key.sign(b"message")), key.public
    match spoil:
        case "message":
            message = b"massage"
        case "signature":
            signature = bytes([signature[0] ^ 1]) + signature[1:]
        case "key":
            public = PublicKey(bytes([public[0] ^ 1]) + public[1:])
        case "short":
            signature = signature[:-1]
    with pytest.raises(BadSignature):
        verify(public, Domain.VALIDATOR, message, signature)


def test_the_key_of_a_secret_is_pinned() -> None:
    # The first is what `openssl kdf ... HKDF` gives for this salt, key and info. A change means that no cluster knows
    # its own blobs any more.
    assert derive_seed(b"secret", b"info").hex() == ("3dbf517b488c2bc08ee08025dbbb293a0fbb1ff6ddbc32f6b7afee43eb40d5ed")
    assert SigningKey.from_secret(b"secret", Domain.PUBLISHER).public.hex() == (
        "4fa7e17d93ee23e57c20f2553ade7f27c471311a6f82ae6cfc73a737747ba457"
    )


def test_a_key_never_shows_its_secret_half() -> None:
    key = SigningKey(b"\x07" * 32, Domain.PUBLISHER)
    assert repr(key) == f"SigningKey(publisher, public={key.public.hex()})"


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33])
def test_what_is_no_public_key_is_not_taken_for_one(text: str) -> None:
    assert parse_public_key(text) is None
