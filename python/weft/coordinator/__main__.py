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
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from weft.config import (
    CoordinatorSettings,
    check_tokens,
    join_address,
    read_availability_policy,
    read_coordinator_settings,
    read_layer_settings,
)
from weft.coordinator.app import Coordinator, Limits
from weft.coordinator.handoffs import HandoffWatch
from weft.coordinator.layers import check_layers, choose_layers, open_layers
from weft.coordinator.rebuilding import JOURNAL
from weft.coordinator.restoring import restore_from_journal, restore_from_layers, told_now_and_then
from weft.coordinator.tokens import TokenFile
from weft.core.placement import Strategy
from weft.handoff import HandoffDirectory, process_is_alive
from weft.ledger import open_journal, open_shared_journal
from weft.ledger.layers import MemoryLayer
from weft.ledger.lock import ProcessLock
from weft.ledger.snapshot import SnapshotFolder
from weft.model.availability import Role
from weft.model.errors import JournalLocked, Misconfigured, WeftError
from weft.model.journal import JournalKind
from weft.receipts import Domain, SigningKey
from weft.serve.server import Server, bind
from weft.telemetry import Log, LogBridge

LOCK = "coordinator.lock"
SNAPSHOTS = "snapshots"
"""The folder of snapshots in the data directory."""


_TELL_MS = 1_000
"""How often a rebuild says how far it has come."""
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
            journal="memory" if flags.memory else flags.journal,
            advertise=flags.advertise,
        )
        if flags.rebuild_from is not None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_rebuild(settings, flags.rebuild_from, clock, forced=flags.force))
            return 0
        with (
            bind(settings.host, settings.port) as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(settings, listener, clock, log))
    except (Misconfigured, JournalLocked) as error:
        sys.stderr.write(f"weft coordinator: {error}\n")
        return 2
    except WeftError as error:
        sys.stderr.write(f"weft coordinator: {error}\n")
        return 1
    return 0


async def _serve(settings: CoordinatorSettings, listener: socket.socket, clock: SystemClock, log: Log) -> None:
    profile, place = settings.profile, settings.journal
    policy, configured = read_availability_policy(os.environ), read_layer_settings(os.environ)
    port = listener.getsockname()[1]
    # A journal in a file has a lock of its own; what else is in the directory is one process's all the same.
    lock = ProcessLock.take(settings.data_dir / LOCK) if place.is_shared else None
    shared = await open_shared_journal(place) if place.is_shared else None
    journal = shared or await open_journal(place, settings.data_dir)
    key = SigningKey.from_secret(settings.secret, Domain.PUBLISHER)
    layers = open_layers(configured, clock, SystemRandom(), key, settings.data_dir)
    if isinstance(layers.get(Role.PRIMARY), MemoryLayer):
        log.warning("the primary layer is in memory and forgets everything when this process ends (USE_MOCK_DA)")
    coordinator = Coordinator(
        journal,
        clock,
        SystemRandom(),
        log,
        stopwatch=time.perf_counter,
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
            term_lease_ms=settings.term_lease_ms,
        ),
        shared=shared,
        address=settings.advertise or _reached_at(settings.host, port),
        snapshots=_snapshots(settings),
        layers=layers,
        availability=policy,
        # A journal that forgets everything is not followed by a list that does not.
        directory=None if place.kind is JournalKind.MEMORY else settings.data_dir,
    )
    try:
        await check_layers(layers)
        await coordinator.start()
    except BaseException:
        await journal.close()
        raise
    sys.setswitchinterval(_SWITCH_S)
    # What the log led to stays for as long as the process; the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    beside = _work_beside(settings, coordinator, log)
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
        if lock is not None:
            lock.release()
        log.info("stopped")


async def _rebuild(settings: CoordinatorSettings, source: str, clock: SystemClock, *, forced: bool) -> None:
    """Rebuild the disk, saying now and then how far it has come."""

    def say(line: str) -> None:
        sys.stdout.write(f"weft ledger: {line}\n")
        sys.stdout.flush()

    snapshots = _snapshots(settings)
    if snapshots is None:
        raise Misconfigured("a journal in memory has nothing to rebuild into", variable="WEFT_JOURNAL")
    tell = told_now_and_then(say, clock.monotonic_ms, _TELL_MS)
    if source == JOURNAL:
        restored = await restore_from_journal(settings.journal, settings.data_dir, snapshots, tell)
    else:
        key = SigningKey.from_secret(settings.secret, Domain.PUBLISHER)
        layers = open_layers(read_layer_settings(os.environ), clock, SystemRandom(), key, settings.data_dir)
        try:
            restored = await restore_from_layers(
                choose_layers(layers, source),
                settings.journal,
                settings.data_dir,
                snapshots,
                key,
                tell,
                forced=forced,
            )
        finally:
            for layer in layers.values():
                await layer.close()
    say(f"rebuilt up to position {restored.position}, {restored.events} events")
    say(f"state digest {restored.state_digest.hex()}")
    if restored.aside:
        say(f"the old journal is {restored.aside}")
    if restored.list_aside:
        say(f"acknowledged batches were given up; the pending list as it was is {restored.list_aside}")


def _snapshots(settings: CoordinatorSettings) -> SnapshotFolder | None:
    """Where snapshots are kept; of a journal that forgets everything there are none."""
    if settings.journal.kind is JournalKind.MEMORY:
        return None
    key = SigningKey.from_secret(settings.secret, Domain.PUBLISHER)
    return SnapshotFolder(settings.data_dir / SNAPSHOTS, key)


def _reached_at(host: str, port: int) -> str:
    """The URL at which others reach this process, where nobody says another."""
    everywhere = host.strip("[]") in ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
    return f"http://{join_address(socket.gethostname() if everywhere else host, port)}"


def _work_beside(settings: CoordinatorSettings, coordinator: Coordinator, log: Log) -> list["asyncio.Task[None]"]:
    """What looks at files: the tokens, and in the home profile the engines of this machine."""
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: log.info("there is no LLORCH_API_TOKEN_FILE to read again"))
    if settings.token_file is not None:
        check = partial(check_tokens, settings.host, settings.profile)
        tokens = TokenFile(coordinator.gate, settings.tokens, settings.token_file, log, check)
        tokens.look()
        loop.add_signal_handler(signal.SIGHUP, lambda: tokens.look(always=True))
        tasks.append(asyncio.create_task(tokens.keep_looking(), name="tokens"))
    if not settings.profile.cloud:

        def refuse(path: Path, why: str) -> None:
            log.warning("a handoff file is not read", path=str(path), reason=why)

        directory, interval_ms = settings.profile.runtime_dir, settings.profile.watch_interval_ms
        engines = HandoffDirectory(directory, refuse)
        watch = HandoffWatch(engines, coordinator.bindings, process_is_alive, interval_ms)
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
    parser.add_argument("--journal", help="sqlite, memory, nats://… or postgres://… (WEFT_JOURNAL, else sqlite)")
    parser.add_argument("--advertise", metavar="URL", help="where other machines reach this one (WEFT_ADVERTISE)")
    parser.add_argument("--rebuild-from", metavar="SOURCE", help="rebuild the disk from layers or the journal, and end")
    parser.add_argument(
        "--force", action="store_true", help="rebuild though this disk knows of batches that are missing"
    )
    parser.add_argument("--memory", action="store_true", help="keep the journal in memory: all is forgotten at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
