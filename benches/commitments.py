"""Commitments, MiB a second: what a blob is known by, beside the hash it comes to when nothing else is done.

A layer's commitment is the SHA3-256 of a blob and should cost what hashlib costs. Celestia's share commitment is a tree
of SHA-256 over shares of 512 bytes, computed in Python; its floor is one SHA-256 over the same bytes.
"""

import hashlib
import os
import time
from collections.abc import Callable

from benches.rounds import Row, Sample, heading, in_turn
from weft.ledger.layer import commit_to
from weft.ledger.layers.celestia.commitment import share_commitment
from weft.model.namespace import parse_namespace

MIB = 1 << 20
BLOB_BYTES = 2 * MIB
BLOBS = 16
NAMESPACE = parse_namespace("00" * 19 + "77656674000000000001")


def run() -> list[Row]:
    heading(f"commitments (blobs of {BLOB_BYTES // MIB} MiB, beside hashlib)")
    blobs = [os.urandom(BLOB_BYTES) for _ in range(BLOBS)]
    rows = in_turn(
        {"mib_per_s": Row("commitment, SHA3-256", "MiB/s", "≥ 0.90")},
        lambda: rate(blobs, lambda blob: hashlib.sha3_256(blob).hexdigest()),
        lambda: rate(blobs, commit_to),
    )
    rows += in_turn(
        {"mib_per_s": Row("share commitment", "MiB/s", "")},
        lambda: rate(blobs, lambda blob: hashlib.sha256(blob).digest()),
        lambda: rate(blobs, lambda blob: share_commitment(NAMESPACE, blob)),
    )
    return rows


def rate(blobs: list[bytes], commit: Callable[[bytes], object]) -> Sample:
    began_s = time.perf_counter()
    for blob in blobs:
        commit(blob)
    return {"mib_per_s": sum(map(len, blobs)) / MIB / (time.perf_counter() - began_s)}
