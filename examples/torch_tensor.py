"""A torch tensor is read where it lies in another process, and another is sent there.

    python examples/torch_tensor.py

The first process has weights, in bfloat16, and advertises them; the second reads them straight into a tensor of its
own, works on it, and sends the gradient back. Nothing is pickled, and nothing is copied but by the transfer itself.
"""

import multiprocessing
import os
import secrets
import sys
from multiprocessing.connection import Connection

import weft

try:
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    sys.exit(
        "this example moves torch tensors, and torch is not installed: pip install torch (kv_blocks.py needs none)"
    )

ROWS, COLUMNS, GRADIENT = 512, 1024, 1


def keep(channel: Connection) -> None:
    """Lends its weights, and receives a gradient for them."""
    weights = torch.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).remainder(251).to(torch.bfloat16)
    with weft.Endpoint(name="keeper") as endpoint, endpoint.register(weights) as memory:
        channel.send((endpoint.metadata, memory.advertise(writable=False).encode()))
        peer = endpoint.accept(timeout_ms=10_000)
        assert peer is not None, "nobody came"
        gradient = torch.empty(ROWS, COLUMNS, dtype=torch.float32)
        received = peer.recv(gradient, tag=GRADIENT).wait()
        assert gradient.equal(weights.to(torch.float32) * 2)
        print(f"keeper received a gradient of {received} bytes from {peer.name}", flush=True)


def work(channel: Connection) -> None:
    """Reads the weights, and sends what it made of them."""
    metadata, advert = channel.recv()
    weights = torch.empty(ROWS, COLUMNS, dtype=torch.bfloat16)
    with weft.Endpoint(name="worker") as endpoint, endpoint.connect(metadata) as peer:
        moved = peer.read_now(weft.Advert(advert), weights)
        print(f"worker read weights of {moved} bytes, by {peer.transport}", flush=True)
        peer.send(weights.to(torch.float32) * 2, tag=GRADIENT).wait()


def main() -> None:
    """Runs both, and expects both to end well."""
    # Both processes have to hold one secret; those of one user find it by themselves, these are given one of their own.
    os.environ.setdefault("WEFT_SECRET", secrets.token_hex(32))
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    first = spawn.Process(target=keep, args=(here,))
    second = spawn.Process(target=work, args=(there,))
    first.start()
    second.start()
    second.join(60)
    first.join(60)
    assert first.exitcode == second.exitcode == 0


if __name__ == "__main__":
    main()
