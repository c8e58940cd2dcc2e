"""One validator as the quorum layer sees it: a server whose word counts once its signature was verified.

A validator is known by its key. Where the settings name one, nothing else is ever accepted. Where they do not, which is
possible on loopback only, the first key it shows is the one it is known by until this process ends.
"""

import re
from typing import Final, NamedTuple

from weft.ledger.layer import Commitment
from weft.ledger.layers.ports import Http
from weft.ledger.layers.server import BlobServer, Page
from weft.model.errors import BadSignature, LayerFailed, LayerUnknown
from weft.receipts import Domain, PublicKey, parse_public_key, validator_statement, verify

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Vote(NamedTuple):
    """A validator keeps a blob, and signed for it. Made only from signatures that were verified."""

    public_key: PublicKey
    name: str
    height: int


class Standing(NamedTuple):
    """A validator that answers: under which key, and how far it has come."""

    public_key: PublicKey
    name: str
    height: int


class Validator:
    """One validator."""

    def __init__(
        self, http: Http, url: str, public_key: PublicKey | None, cluster: PublicKey, token: str | None, layer: str
    ) -> None:
        self._server = BlobServer(http, url, token, layer)
        self._cluster = cluster
        self._layer = layer
        self._public_key = public_key
        self.url = url

    async def put(self, commitment: Commitment, blob: bytes, height_min: int, timeout_ms: int) -> Vote:
        """Have a blob kept and signed for. Raises `LayerFailed` and its kin; an invalid signature is no vote."""
        key = await self.key(timeout_ms)
        headers = {"weft-cluster": self._cluster.hex(), "weft-height": str(height_min)}
        put = await self._server.put(commitment, blob, headers, timeout_ms)
        try:
            if _NAME.fullmatch(put.validator_id) is None:
                raise BadSignature("the signature is under no name")
            statement = validator_statement(self._cluster, commitment, put.validator_id)
            verify(key, Domain.VALIDATOR, statement, bytes.fromhex(put.signature_hex))
        except (BadSignature, ValueError) as error:
            # It may well keep the blob; what it does not do is answer for it.
            raise LayerUnknown(
                f"{self.url} did not sign for blob {commitment} with the key it is known by",
                layer=self._layer,
                url=self.url,
                commitment=commitment,
            ) from error
        return Vote(key, put.validator_id, put.height)

    async def get(self, commitment: Commitment, timeout_ms: int) -> bytes:
        """A blob, verified."""
        return await self._server.get(commitment, timeout_ms)

    async def list(self, after: int, count_max: int, timeout_ms: int) -> Page:
        """What it keeps above a height."""
        return await self._server.list(after, count_max, timeout_ms)

    async def health(self, timeout_ms: int) -> Standing:
        """Who it is and how far it has come. Raises `LayerFailed` when it cannot take a blob, or is somebody else."""
        health = await self._server.health(timeout_ms)
        shown = parse_public_key(health.public_key)
        if shown is None or (self._public_key is not None and shown != self._public_key):
            known_by = self._public_key.hex() if self._public_key is not None else "any key"
            raise LayerFailed(
                f"{self.url} shows the key {health.public_key or 'of no validator'} and is known by {known_by}; see "
                "QUORUM_VALIDATORS",
                layer=self._layer,
                url=self.url,
            )
        self._public_key = shown
        return Standing(shown, health.validator_id, health.height)

    async def check(self, timeout_ms: int) -> Standing:
        """As `health`, and whether it takes this coordinator's token: anybody is told of its health."""
        standing = await self.health(timeout_ms)
        await self._server.list(standing.height, 1, timeout_ms)
        return standing

    async def key(self, timeout_ms: int) -> PublicKey:
        """The key it is known by."""
        if self._public_key is not None:
            return self._public_key
        return (await self.health(timeout_ms)).public_key
