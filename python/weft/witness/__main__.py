"""`python -m weft.witness emergency` and `… validator`: a server that keeps blobs, until it is told to stop.

Prints one line when it listens, with a validator's public key behind a `#`, as QUORUM_VALIDATORS wants it. Ends with 0
after SIGTERM, 2 when it was started wrongly, 1 when something broke.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import time

import uvloop

from weft.config import WitnessSettings, join_address, read_witness_settings
from weft.model.errors import Misconfigured, WeftError
from weft.serve import Gate
from weft.serve.server import Server, bind
from weft.telemetry import Log, LogBridge
from weft.witness.key import open_key
from weft.witness.log import BlobLog
from weft.witness.service import Witness
from weft.witness.shelf import Shelf

PORTS = {"emergency": 8_090, "validator": 8_091}


class SystemRandom:
    """The kernel's randomness."""

    def draw(self, size_bytes: int) -> bytes:
        """So many bytes of it."""
        return os.urandom(size_bytes)


def main(arguments: list[str] | None = None) -> int:
    """Run a witness; returns the process's exit status."""
    flags = _parser().parse_args(arguments)
    log = Log(sys.stderr, lambda: time.time_ns() // 1_000_000, process=f"witness {flags.kind}", pid=os.getpid())
    logging.basicConfig(handlers=[LogBridge(log)], level=logging.WARNING)
    try:
        settings = read_witness_settings(
            os.environ,
            host=flags.host,
            port=PORTS[flags.kind] if flags.port is None else flags.port,
            directory=flags.data,
            name=flags.name or socket.gethostname(),
        )
        with (
            bind(settings.host, settings.port, host_variable="--host", port_variable="--port") as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(flags.kind, settings, listener, log))
    except Misconfigured as error:
        sys.stderr.write(f"weft witness {flags.kind}: {error}\n")
        return 2
    except WeftError as error:
        sys.stderr.write(f"weft witness {flags.kind}: {error}\n")
        return 1
    return 0


async def _serve(kind: str, settings: WitnessSettings, listener: socket.socket, log: Log) -> None:
    blobs = BlobLog(settings.directory)
    if blobs.torn_bytes:
        log.warning("the end of the log was no whole record and was put aside", size_bytes=blobs.torn_bytes)
    for begin, end in blobs.damaged_spans:
        log.warning("a stretch of the log is damaged", offset=begin, size_bytes=end - begin)
    shelf = Shelf(blobs)
    random = SystemRandom()
    key = open_key(settings.directory, random) if kind == "validator" else None
    witness = Witness(shelf, Gate(settings.tokens), random, log, key=key, name=settings.name)
    url = f"http://{join_address(settings.host, listener.getsockname()[1])}"
    mark = f"#{key.public.hex()}" if key is not None else ""

    def announce() -> None:
        sys.stdout.write(f"weft witness {kind} listening on {url}{mark}\n")
        sys.stdout.flush()

    try:
        await Server(witness.app, announce, lambda: None).serve(sockets=[listener])
    finally:
        await shelf.close()
        log.info("stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weft.witness", description="Keeps blobs for clusters.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, what in (
        ("emergency", "Keeps what a coordinator puts when nothing else takes it (EMERGENCY_DA_URL)."),
        ("validator", "Keeps blobs and signs for them (QUORUM_VALIDATORS)."),
    ):
        one = kinds.add_parser(kind, help=what, description=what)
        one.add_argument("--data", required=True, help="the directory the blobs are kept in")
        one.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        one.add_argument("--port", type=int, help=f"port to listen on, 0 for any ({PORTS[kind]})")
        one.add_argument("--name", help="what it is called; a validator signs under it (the hostname)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
