"""Blocks of a key-value cache move from the process that filled them to the one that goes on with them.

    python examples/kv_blocks.py

The first process registers its whole cache once and hands out one advert. The second asks for the blocks it needs, many
in one call, and tells the first when it has them. With torch installed the cache is a tensor; without, an array.
"""

import multiprocessing
import os
import secrets
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import weft

LAYERS, BLOCKS, BLOCK_FLOATS = 4, 256, 2048
WANTED = [3, 4, 5, 60, 61, 200]


def cache() -> Any:
    """Keys and values of every layer's blocks: a tensor where torch is, an array where it is not."""
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return np.zeros((LAYERS, BLOCKS, BLOCK_FLOATS), np.float32)
    return torch.zeros((LAYERS, BLOCKS, BLOCK_FLOATS), dtype=torch.float32)


def prefill(channel: Connection) -> None:
    """Fills its cache, advertises it, and keeps it until it is told that the blocks were fetched."""
    filled = cache()
    for layer in range(LAYERS):
        for block in WANTED:
            filled[layer, block] = layer * 1000 + block
    with weft.Endpoint(name="prefill") as endpoint, endpoint.register(filled) as memory:
        channel.send((endpoint.metadata, memory.advertise(writable=False).encode()))
        for notice in endpoint.notifications(timeout_ms=10_000):
            print(f"{notice.sender} {notice.content.decode()}")


def decode(channel: Connection) -> None:
    """Fetches the blocks it needs into its own cache, all layers in one call."""
    metadata, advert_bytes = channel.recv()
    mine, advert = cache(), weft.Advert(advert_bytes)
    view = np.asarray(mine)
    items = [
        (advert, (layer * BLOCKS + block) * BLOCK_FLOATS * 4, view[layer, block])
        for layer in range(LAYERS)
        for block in WANTED
    ]
    with weft.Endpoint(name="decode") as endpoint, endpoint.connect(metadata) as peer:
        moved = peer.readv_now(items)
        assert all((view[layer, block] == layer * 1000 + block).all() for layer in range(LAYERS) for block in WANTED)
        peer.notify(b"fetched", f"fetched {len(items)} blocks, {moved} bytes, by {peer.transport}".encode()).wait()


def main() -> None:
    """Runs both, and expects both to end well."""
    # Both processes have to hold one secret; those of one user find it by themselves, these are given one of their own.
    os.environ.setdefault("WEFT_SECRET", secrets.token_hex(32))
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    first = spawn.Process(target=prefill, args=(here,))
    second = spawn.Process(target=decode, args=(there,))
    first.start()
    second.start()
    second.join(30)
    first.join(30)
    assert first.exitcode == second.exitcode == 0


if __name__ == "__main__":
    main()
