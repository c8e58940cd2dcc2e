"""`python -m weft.testing.celestia`: the double as a process, until it is told to stop.

Prints one line when it listens, with a token that may read and write behind a space, and with `--file` comes back with
the chain it had. Faults are set over HTTP by whoever tests: `POST /control {"latency_ms": 500, "status": null, ...}`.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from weft.config import join_address
from weft.serve.server import Server, bind
from weft.testing.celestia.app import NodeDouble, mint_token
from weft.testing.celestia.chain import ChainDouble, Fate

CONTROL_BYTES_MAX = 65_536


class Controlled:
    """The double with a door for whoever tests beside it. A real node has none."""

    def __init__(self, node: NodeDouble) -> None:
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != "/control":
            await self._node(scope, receive, send)
            return
        body = b""
        while len(body) <= CONTROL_BYTES_MAX:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self._turn(json.loads(body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _turn(self, knobs: dict[str, Any]) -> None:
        node = self._node
        node.latency_ms = int(knobs.get("latency_ms", node.latency_ms))
        node.is_syncing = bool(knobs.get("is_syncing", node.is_syncing))
        node.status = knobs.get("status", node.status)
        node.chain.fates.extend(Fate[name] for name in knobs.get("fates", ()))
        if "prune" in knobs:
            node.chain.prune(int(knobs["prune"]))


def main(arguments: list[str] | None = None) -> int:
    """Run the double; returns the process's exit status."""
    flags = _parser().parse_args(arguments)
    secret = None if flags.skip_auth else bytes.fromhex(flags.secret) if flags.secret else os.urandom(32)
    with bind("127.0.0.1", flags.port, host_variable="--host", port_variable="--port") as listener:
        asyncio.run(_serve(flags, secret, listener))
    return 0


async def _serve(flags: argparse.Namespace, secret: bytes | None, listener: socket.socket) -> None:
    chain = ChainDouble(keep_blocks=flags.keep_blocks, file=flags.file)
    node = NodeDouble(chain, secret)
    url = f"http://{join_address('127.0.0.1', listener.getsockname()[1])}"
    token = "" if secret is None else f" {mint_token(secret, 'public', 'read', 'write')}"

    def announce() -> None:
        sys.stdout.write(f"celestia double listening on {url}{token}\n")
        sys.stdout.flush()

    blocks = asyncio.create_task(node.produce_blocks(flags.block_ms))
    try:
        await Server(Controlled(node), announce, lambda: None).serve(sockets=[listener])
    finally:
        blocks.cancel()
        chain.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weft.testing.celestia", description="A double of a Celestia node.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on, 0 for any (0)")
    parser.add_argument("--block-ms", type=int, default=200, help="how often a block is made (200)")
    parser.add_argument("--keep-blocks", type=int, help="prune all but so many blocks")
    parser.add_argument("--file", type=Path, help="where the chain is kept, to come back with it")
    parser.add_argument("--secret", help="what tokens are signed with, in hex; made up when there is none")
    parser.add_argument("--skip-auth", action="store_true", help="want no token")
    return parser


if __name__ == "__main__":
    sys.exit(main())
