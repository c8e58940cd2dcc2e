"""Computes share_commitments.json by a method that shares no line and no step with the package's.

The package splits a blob forwards and folds trees level by level. This one fills one buffer for the whole square's
row, derives the trees from the definition of a Merkle mountain range, and hashes recursively from the roots down,
keeping the least and the greatest namespace of every node as the specification does. Run it to write the file again:

    python tests/vectors/share_commitments.py
"""

import hashlib
import json
import math
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
SIZES = [1, 2, 477, 478, 479, 480, 960, 961, 1_000, 5_000, 30_000, 31_000, 40_000, 65_536, 150_000, 500_000, 1_048_576]


def content(size: int) -> bytes:
    """Bytes anybody can make again."""
    return hashlib.shake_128(f"weft share vectors {size}".encode()).digest(size)


def h(*parts: bytes) -> bytes:
    return hashlib.new("sha256", b"".join(parts)).digest()


def layout(ns: bytes, data: bytes, version: int, signer: bytes) -> list[bytes]:
    """Every share as a view of one buffer, filled by walking the data backwards from its end."""
    prefix = 5 + len(signer)
    count = 1 if len(data) <= 482 + 1 - prefix else 1 + math.ceil((len(data) - (483 - prefix)) / 482)
    square = bytearray(512 * count)
    for number in range(count):
        at = 512 * number
        square[at : at + 29] = ns
        square[at + 29] = 2 * version + (number == 0)
    square[30:34] = len(data).to_bytes(4, "big")
    square[34 : 34 + len(signer)] = signer
    room = 512 - 34 - len(signer)
    for position in range(len(data) - 1, -1, -1):
        if position < room:
            square[34 + len(signer) + position] = data[position]
        else:
            number, within = divmod(position - room, 482)
            square[512 * (number + 1) + 30 + within] = data[position]
    return [bytes(square[at : at + 512]) for at in range(0, len(square), 512)]


def nmt(ns: bytes, shares: list[bytes]) -> tuple[bytes, bytes, bytes]:
    """Least namespace, greatest namespace and digest of a namespaced Merkle tree, by its definition."""
    if len(shares) == 1:
        return ns, ns, h(b"\x00", ns, shares[0])
    half = 2 ** (math.ceil(math.log2(len(shares))) - 1)
    left, right = nmt(ns, shares[:half]), nmt(ns, shares[half:])
    return min(left[0], right[0]), max(left[1], right[1]), h(b"\x01", *left, *right)


def mountains(total: int) -> list[int]:
    """Widths of the trees: the largest power of two that fits and is not above the cap, again and again."""
    cap_by_roots, cap_by_square = 1, 1
    while cap_by_roots < total / 64:
        cap_by_roots *= 2
    while cap_by_square < math.sqrt(total):
        cap_by_square *= 2
    widths = []
    while total:
        width = min(cap_by_roots, cap_by_square)
        while width > total:
            width //= 2
        widths.append(width)
        total -= width
    return widths


def rfc6962(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return h(b"\x00", leaves[0])
    split = max(2**power for power in range(len(leaves)) if 2**power < len(leaves))
    return h(b"\x01", rfc6962(leaves[:split]), rfc6962(leaves[split:]))


def commitment(ns: bytes, data: bytes, version: int = 0, signer: bytes = b"") -> bytes:
    shares = layout(ns, data, version, signer)
    roots, begin = [], 0
    for width in mountains(len(shares)):
        roots.append(b"".join(nmt(ns, shares[begin : begin + width])))
        begin += width
    return rfc6962(roots)


def vectors() -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for size in SIZES:
        for version, signer in ((0, b""), (1, bytes(range(20)))):
            ns = bytes(19) + hashlib.sha256(str(size).encode()).digest()[:10]
            made.append(
                {
                    "size": size,
                    "namespace": ns.hex(),
                    "share_version": version,
                    "signer": signer.hex(),
                    "commitment": commitment(ns, content(size), version, signer).hex(),
                }
            )
    return made


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
