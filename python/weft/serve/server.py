"""The socket and the loop: binding, serving, and stopping on a signal."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from weft.config import join_address
from weft.model.errors import Misconfigured
from weft.model.policy import CONNECTIONS_MAX, DRAIN_MS_MAX, IDLE_S_MAX

BACKLOG = 2_048
"""Connections the kernel holds while the loop is busy: a whole cluster that reconnects at once."""


def bind(
    host: str, port: int, *, host_variable: str = "COORDINATOR_HOST", port_variable: str = "COORDINATOR_PORT"
) -> socket.socket:
    """A bound socket, not listening yet. Raises `Misconfigured` with what to do when the address cannot be had."""
    address = join_address(host, port)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured(f"cannot listen on {address}: {error.strerror}", variable=host_variable) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise Misconfigured(
            f"cannot listen on {address}: {error.strerror}; stop what uses it, or choose another port with --port",
            variable=port_variable,
        ) from error
    return bound


class Server(uvicorn.Server):
    """uvicorn, with our own signals: it would end the process by the signal, and we end it with 0."""

    def __init__(self, app: ASGIApp, on_listening: Callable[[], None], on_drain: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=IDLE_S_MAX,
                timeout_graceful_shutdown=DRAIN_MS_MAX // 1_000,
            )
        )
        self._on_listening = on_listening
        self._on_drain = on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT let everybody finish; the second of them lets nobody."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin to stop; called again, stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._on_drain()
