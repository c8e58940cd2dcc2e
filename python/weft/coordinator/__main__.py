"""`python -m weft.coordinator`: choose clock, chance, journal and network, and run until told to stop.

Prints one line when it listens, and everything else as structured lines on stderr. Ends with 0 after SIGTERM, 2 when
it was started wrongly, 1 when something broke.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import time

import uvloop

from weft.config import CoordinatorSettings, join_address, read_coordinator_settings
from weft.coordinator.app import Coordinator
from weft.coordinator.server import Server, bind
from weft.ledger import Journal, MemoryJournal, SqliteJournal
from weft.model.errors import JournalLocked, Misconfigured, WeftError
from weft.telemetry import Log, LogBridge


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds since the machine started, or thereabouts."""
        return time.monotonic_ns() // 1_000_000


class SystemRandom:
    """The kernel's randomness."""

    def draw(self, size_bytes: int) -> bytes:
        """So many bytes of it."""
        return os.urandom(size_bytes)


def main(arguments: list[str] | None = None) -> int:
    """Run a coordinator; returns the process's exit status."""
    flags = _parser().parse_args(arguments)
    clock = SystemClock()
    log = Log(sys.stderr, clock.now_ms, process="coordinator", pid=os.getpid())
    logging.basicConfig(handlers=[LogBridge(log)], level=logging.WARNING)
    try:
        settings = read_coordinator_settings(
            os.environ,
            host=flags.host,
            port=flags.port,
            data_dir=flags.data_dir,
            journal="memory" if flags.memory else None,
        )
        with bind(settings.host, settings.port) as listener:
            journal: Journal = MemoryJournal() if settings.journal == "memory" else SqliteJournal(settings.data_dir)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, listener, journal, clock, log))
    except (Misconfigured, JournalLocked) as error:
        sys.stderr.write(f"weft coordinator: {error}\n")
        return 2
    except WeftError as error:
        sys.stderr.write(f"weft coordinator: {error}\n")
        return 1
    return 0


async def _serve(
    settings: CoordinatorSettings, listener: socket.socket, journal: Journal, clock: SystemClock, log: Log
) -> None:
    coordinator = Coordinator(
        journal,
        clock,
        SystemRandom(),
        log,
        secret=settings.secret,
        name=f"{socket.gethostname()}:{os.getpid()}",
        tokens=settings.tokens,
    )
    try:
        await coordinator.start()
    except BaseException:
        await journal.close()
        raise
    port = listener.getsockname()[1]
    url = f"http://{join_address(settings.host, port)}"

    def announce() -> None:
        sys.stdout.write(f"weft coordinator listening on {url}\n")
        sys.stdout.flush()

    server = Server(coordinator.app, announce, coordinator.drain)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    failing = asyncio.create_task(coordinator.failed())
    try:
        await asyncio.wait({serving, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            server.stop()
        await serving
        if failing.done():
            failing.result()
    finally:
        failing.cancel()
        await coordinator.stop()
        log.info("stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weft.coordinator",
        description="Keeps who is in the cluster, how to reach them and what each one holds.",
    )
    parser.add_argument("--host", help="address to listen on (COORDINATOR_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any (COORDINATOR_PORT, else 8080)")
    parser.add_argument("--data-dir", help="where the journal and the secret are kept (WEFT_DATA_DIR)")
    parser.add_argument("--memory", action="store_true", help="keep the journal in memory: all is forgotten at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
