"""`python -m weft.coordinator`: choose clock, chance, journal and network, and run until told to stop.

Prints one line when it listens, and everything else as structured lines on stderr. Ends with 0 after SIGTERM, 2 when
it was started wrongly, 1 when something broke.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from typing import Final

import uvloop

from weft.config import CoordinatorSettings, join_address, read_coordinator_settings
from weft.coordinator.app import Coordinator, Limits
from weft.coordinator.handoffs import HandoffWatch
from weft.coordinator.server import Server, bind
from weft.coordinator.tokens import TokenFile
from weft.core.placement import Strategy
from weft.handoff import HandoffDirectory, process_is_alive
from weft.ledger import Journal, MemoryJournal, open_journal
from weft.model.errors import JournalLocked, Misconfigured, WeftError
from weft.telemetry import Log, LogBridge

_SWITCH_S: Final = 0.001
"""How long the event loop may keep the interpreter from the journal's thread, which a whole batch waits for. Python's
own five milliseconds are forty times what a good disk takes for a sync."""


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
            journal: Journal = MemoryJournal() if settings.journal == "memory" else open_journal(settings.data_dir)
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
    profile = settings.profile
    coordinator = Coordinator(
        journal,
        clock,
        SystemRandom(),
        log,
        secret=settings.secret,
        name=f"{socket.gethostname()}:{os.getpid()}",
        tokens=settings.tokens,
        home=not profile.cloud,
        cluster_name=profile.cluster_name,
        loopback_exempt=profile.loopback_exempt,
        strategy=Strategy(profile.placement_strategy),
        limits=Limits(
            node_lost_ms=profile.node_timeout_ms,
            node_purge_ms=profile.node_purge_ms,
            beat_skew_ms=profile.beat_skew_ms,
            stale_check_ms=profile.stale_check_ms if profile.cloud else 0,
        ),
    )
    try:
        await coordinator.start()
    except BaseException:
        await journal.close()
        raise
    sys.setswitchinterval(_SWITCH_S)
    # What the log led to stays for as long as the process; the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    beside = _work_beside(settings, coordinator, log)
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
        for task in beside:
            task.cancel()
        failing.cancel()
        await coordinator.stop()
        log.info("stopped")


def _work_beside(settings: CoordinatorSettings, coordinator: Coordinator, log: Log) -> list["asyncio.Task[None]"]:
    """What looks at files: the tokens, and in the home profile the engines of this machine."""
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: log.info("there is no LLORCH_API_TOKEN_FILE to read again"))
    if settings.token_file is not None:
        tokens = TokenFile(coordinator.gate, settings.tokens, settings.token_file, log)
        tokens.look()
        loop.add_signal_handler(signal.SIGHUP, lambda: tokens.look(always=True))
        tasks.append(asyncio.create_task(tokens.keep_looking(), name="tokens"))
    if not settings.profile.cloud:
        directory, interval_ms = HandoffDirectory(settings.profile.runtime_dir), settings.profile.watch_interval_ms
        watch = HandoffWatch(directory, coordinator.bindings, process_is_alive, interval_ms)
        tasks.append(asyncio.create_task(watch.keep_looking(), name="handoffs"))
    return tasks


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
