"""The witness's HTTP service: put a blob, get it, list what is kept, say how it is. A validator signs besides.

    PUT  /blob/{commitment}    the blob as the body; a validator wants Weft-Cluster: KEY, and heeds Weft-Height: N
    GET  /blob/{commitment}
    GET  /blobs?from=HEIGHT&limit=N
    GET  /health, HEAD /health
    GET  /metrics

What a validator signs is a promise, so it signs when the blob is on the disk and not before, and anew
for whoever puts a blob it has. It signs for any cluster that may speak to it; the cluster is inside what is signed.
"""

import re
from typing import Final

from starlette.types import ASGIApp

from weft.api.bodies.witness import BlobKept, BlobLine, BlobList, WitnessHealth
from weft.api.tables.witness import WITNESS
from weft.model.canonical import sha3_hex
from weft.model.errors import InvalidField, Unavailable
from weft.model.ids import RequestId
from weft.model.policy import COUNT_MAX, LAYER_BLOB_BYTES_MAX, LAYER_MS_MAX
from weft.receipts import PublicKey, SigningKey, parse_public_key, validator_statement
from weft.serve import Call, Content, Gate, Service, build_app
from weft.telemetry import PROMETHEUS_TYPE, Log, Metrics
from weft.witness.log import Draft
from weft.witness.ports import Random
from weft.witness.shelf import Shelf

OCTETS: Final = b"application/octet-stream"
CLUSTER_HEADER: Final = b"weft-cluster"
HEIGHT_HEADER: Final = b"weft-height"
HEIGHT_LEAP_MAX: Final = 1 << 32
"""How far ahead a caller may push the heights, so that nobody can push them to their end."""
_REQUEST_ID_BYTES: Final = 8
_COMMITMENT: Final = re.compile(r"[0-9a-f]{64}")


class Witness:
    """One server. With a key it is a validator, which has a name."""

    def __init__(
        self, shelf: Shelf, gate: Gate, random: Random, log: Log, *, key: SigningKey | None = None, name: str = ""
    ) -> None:
        self._shelf = shelf
        self._random = random
        self._key = key
        self._name = name
        self.metrics = Metrics()
        self.metrics.gauge("weft_witness_blobs", "Blobs kept.", lambda: shelf.log.count)
        self.metrics.gauge("weft_witness_log_bytes", "Bytes of the log of blobs.", lambda: shelf.log.size_bytes)
        self.app: ASGIApp = build_app(
            Service(
                routes=WITNESS,
                handlers={
                    "put_blob": self.put_blob,
                    "show_blob": self.show_blob,
                    "list_blobs": self.list_blobs,
                    "show_health": self.show_health,
                    "show_metrics": self.show_metrics,
                },
                gate=gate,
                position=lambda: shelf.log.height,
                mint_request_id=self._mint,
                mint_correlation_id=self._mint,
                log=log,
                metrics=self.metrics,
                version="1",
            )
        )

    async def put_blob(self, call: Call) -> BlobKept:
        """Keep a blob under its commitment, and sign for it."""
        commitment = _commitment(call)
        cluster = self._cluster(call)
        height_min = _height(call, self._shelf.log.height)
        blob = await call.read(LAYER_BLOB_BYTES_MAX, LAYER_MS_MAX)
        if sha3_hex(blob) != commitment:
            raise InvalidField(
                f"the body is not the blob of {commitment}: its SHA3-256 is {sha3_hex(blob)}", field="commitment"
            )
        entry = await self._shelf.put(Draft(commitment, blob, height_min))
        if self._key is None or cluster is None:
            return BlobKept(commitment=commitment, height=entry.height)
        statement = validator_statement(cluster, commitment, self._name)
        return BlobKept(
            commitment=commitment,
            height=entry.height,
            validator_id=self._name,
            signature_hex=self._key.sign(statement).hex(),
        )

    async def show_blob(self, call: Call) -> Content:
        """A blob, verified once more on its way out."""
        return Content(await self._shelf.get(_commitment(call)), OCTETS)

    async def list_blobs(self, call: Call) -> BlobList:
        """What is kept."""
        entries, is_end = self._shelf.after(call.query.after, call.query.limit)
        return BlobList(
            blobs=[
                BlobLine(commitment=entry.commitment, height=entry.height, size_bytes=entry.size_bytes)
                for entry in entries
            ],
            next=entries[-1].height if entries else call.query.after,
            is_end=is_end,
        )

    async def show_health(self, _: Call) -> WitnessHealth:
        """How it is. A log that takes nothing is no health to speak of."""
        log = self._shelf.log
        if log.refuses is not None:
            raise Unavailable(log.refuses)
        return WitnessHealth(
            status="healthy",
            blob_count=log.count,
            size_bytes=log.size_bytes,
            height=log.height,
            damaged_count=len(log.damaged_spans),
            validator_id=self._name if self._key is not None else None,
            public_key=self._key.public.hex() if self._key is not None else None,
        )

    async def show_metrics(self, _: Call) -> Content:
        """Counters and gauges."""
        return Content(self.metrics.text().encode(), PROMETHEUS_TYPE.encode())

    def _cluster(self, call: Call) -> PublicKey | None:
        if self._key is None:
            return None
        given = call.header(CLUSTER_HEADER) or b""
        cluster = parse_public_key(given.decode("latin-1"))
        if cluster is None:
            raise InvalidField("Weft-Cluster is a cluster's public key, 64 hex digits", field="Weft-Cluster")
        return cluster

    def _mint(self) -> RequestId:
        return RequestId(self._random.draw(_REQUEST_ID_BYTES).hex())


def _commitment(call: Call) -> str:
    text = call.path["commitment"]
    if _COMMITMENT.fullmatch(text) is None:
        raise InvalidField("a commitment is 64 lower-case hex digits", field="commitment")
    return text


def _height(call: Call, height: int) -> int:
    text = (call.header(HEIGHT_HEADER) or b"0").decode("latin-1")
    if not text.isascii() or not text.isdigit() or int(text) > min(COUNT_MAX, height + HEIGHT_LEAP_MAX):
        raise InvalidField("Weft-Height is a whole number not far ahead of what is kept", field="Weft-Height")
    return int(text)
