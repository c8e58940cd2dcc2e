"""`python -m weft.agent`, known as `weft node`: the one place where a node gets the real clock, network and memory."""

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import socket
import sys
import time

import click

from weft import config
from weft.agent.memory import Listen, Memory, NativeMemory
from weft.agent.node import Node
from weft.agent.outlet import Outlet
from weft.agent.settings import NodeSettings, read_settings
from weft.agent.stock import NativeStock
from weft.agent.store import Store
from weft.client.http import AsyncHttpxHttp
from weft.client.ports import AsyncSystemClock
from weft.client.security import speak_tls
from weft.dataplane import Lender, RdmaRecord, measure_memory, prepare_rdma
from weft.model.errors import Misconfigured, NotSupported, WeftError
from weft.model.policy import PORT_FIRST, PORT_LAST, SCRUB_EVERY_MS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--lend", default="0", metavar="SIZE", help="Memory to lend, such as 4GiB; a borrower lends nothing.")
@click.option("--name", metavar="NAME", help="This node's name; the hostname unless given.")
@click.option("--host", metavar="ADDRESS", help="Where to listen; the way to the coordinator decides unless given.")
@click.option("--coordinator", metavar="URL", help="The coordinator; WEFT_COORDINATOR, or http://127.0.0.1:8080.")
@click.option("--port-first", type=int, default=PORT_FIRST, show_default=True, help="First port to try.")
@click.option("--port-last", type=int, default=PORT_LAST, show_default=True, help="Last port to try.")
@click.option("--objects", metavar="DIR", help="Where to keep objects; beside the secret unless given, `none` for not.")
@click.option("--store-capacity", metavar="SIZE", help="How much objects may take; what the disk has unless given.")
@click.option("--scrub-rate", metavar="SIZE", help="How much a second is read to look for silent corruption.")
@click.option("--scrub-every-ms", type=int, default=SCRUB_EVERY_MS, show_default=True, help="Pause between two rounds.")
def node(
    lend: str,
    name: str | None,
    host: str | None,
    coordinator: str | None,
    port_first: int,
    port_last: int,
    objects: str | None,
    store_capacity: str | None,
    scrub_rate: str | None,
    scrub_every_ms: int,
) -> None:
    """Run this machine's node: join the cluster, or found it, and lend memory until ended."""
    try:
        settings = read_settings(
            os.environ,
            hostname=socket.gethostname(),
            cpu_count=len(os.sched_getaffinity(0)),
            memory=measure_memory(),
            name=name,
            lend=lend,
            host=host,
            coordinator=coordinator,
            port_first=port_first,
            port_last=port_last,
            objects=objects,
            store_capacity=store_capacity,
            scrub_rate=scrub_rate,
            scrub_every_ms=scrub_every_ms,
        )
        _speak_tls(settings)
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(_open_store(settings)) if settings.objects is not None else None
            asyncio.run(_run(settings, store))
    except WeftError as error:
        click.echo(f"weft node: {error}", err=True)
        sys.exit(1)


async def _run(settings: NodeSettings, store: Store | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    http = AsyncHttpxHttp(settings.url)
    try:
        await Node(
            settings,
            token=config.client_token(os.environ),
            http=http,
            listen=_listener(settings, store),
            clock=AsyncSystemClock(),
            chance=secrets.SystemRandom(),
            outlet=Outlet(announce=_announce, remark=_remark),
            read_token=_token_again,
        ).run(stop)
    finally:
        await http.close()


def _open_store(settings: NodeSettings) -> Store:
    assert settings.objects is not None, "only a node that keeps objects has a store"
    return Store(settings.objects, capacity_bytes=settings.store_capacity_bytes)


def _speak_tls(settings: NodeSettings) -> None:
    """Speaks TLS where there are certificates, and finds out now whether they are this node's."""
    names = speak_tls(os.environ)
    if names is None:
        return
    if settings.name not in names:
        raise Misconfigured(
            f"WEFT_TLS_CERT is for {', '.join(names)}, and this node is {settings.name}; issue one for it with "
            f"`weft tls issue DIRECTORY {settings.name}`, or give the node its name with --name",
            variable="WEFT_TLS_CERT",
        )
    _remark(f"other machines are spoken to over TLS only, as {settings.name}")


def _lend_rdma(lender: Lender) -> RdmaRecord | None:
    """Lends over RDMA where the machine has it. A device that was named and is missing is the operator's to mend."""
    state = prepare_rdma(config.rdma_choice(os.environ))
    if state.device is None:
        return None
    try:
        record = lender.lend_rdma()
    except NotSupported as error:
        _remark(f"RDMA device {state.device} lends nothing, memory is reached over TCP: {error}")
        return None
    _remark(f"memory is lent over RDMA too ({state.device})")
    return record


def _lend_near(lender: Lender) -> None:
    """Hands memory to processes of this machine. Where that cannot be, they are as far away as all others."""
    try:
        lender.lend_near()
    except WeftError as error:
        _remark(f"processes of this machine reach memory over TCP too: {error}")


def _listener(settings: NodeSettings, store: Store | None) -> Listen:
    async def listen(cluster_id: bytes, incarnation: int) -> Memory:
        # Read only now: a coordinator on this machine makes the secret when it first starts, perhaps after this node.
        secret = config.find_secret(os.environ)
        if secret is None:
            where = config.data_directory(os.environ) / config.SECRET_FILE
            raise Misconfigured(
                f"the cluster's secret is neither in WEFT_SECRET nor in {where}; "
                "`weft join` on the coordinator's machine says where it is",
                variable="WEFT_SECRET",
            )
        near = os.environ.get("WEFT_TRANSPORT", "").strip() in ("", "ipc")
        lender = await asyncio.to_thread(
            Lender.listen,
            host=settings.listen_host,
            port_first=settings.port_first,
            port_last=settings.port_last,
            cluster_id=cluster_id,
            secret=secret,
            name=settings.name,
            incarnation=incarnation,
            near=near,
            say=_remark,
        )
        rdma = await asyncio.to_thread(_lend_rdma, lender)
        if near:
            _lend_near(lender)
        if store is None:
            return NativeMemory(lender, rdma=rdma, rdma_choice=config.rdma_choice(os.environ))
        mint = functools.partial(secrets.randbits, 64)
        stock = NativeStock(store, lender, mint=mint, now_ms=_now_ms)
        return NativeMemory(lender, stock, rdma, rdma_choice=config.rdma_choice(os.environ))

    return listen


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _token_again() -> str | None:
    """The token as it is now: the file it is in may have been replaced. One that cannot be read is none."""
    try:
        return config.client_token(os.environ)
    except Misconfigured:
        return None


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _remark(line: str) -> None:
    click.echo(f"weft node: {line}", err=True)


if __name__ == "__main__":
    node(prog_name="weft node")
