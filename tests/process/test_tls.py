"""A cluster whose machines have certificates: pages and objects move, and whoever is between sees nothing of them."""

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

import weft
from tests.process.conftest import DEADLINE_S, MIB, PROGRAMS
from weft.cli.__main__ import weft as command
from weft.cli.demo.cluster import COORDINATOR, OWN_SETTINGS, start_coordinator, start_node
from weft.cli.demo.crew import Child, Crew
from weft.cli.failure import CommandFailed

pytestmark = pytest.mark.process

PLAIN = {"WEFT_TLS_CA": "", "WEFT_TLS_CERT": "", "WEFT_TLS_KEY": ""}
# Processes of one machine would find that out, and reach each other past the network.
APART = {"WEFT_TRANSPORT": "tcp"}


def issued(directory: Path, *names: str) -> dict[str, str]:
    """A machine's certificate, as the variables name it."""
    for arguments in (["init", str(directory)], ["issue", str(directory), *names]):
        if arguments[0] == "issue" or not directory.exists():
            assert CliRunner().invoke(command, ["tls", *arguments]).exit_code == 0
    return {
        "WEFT_TLS_CA": str(directory / "ca.pem"),
        "WEFT_TLS_CERT": str(directory / f"{names[0]}.pem"),
        "WEFT_TLS_KEY": str(directory / f"{names[0]}.key"),
    }


@dataclass
class Eavesdropper:
    """Sits between everybody and one port, and writes down all that goes by, in either direction."""

    target: int
    heard: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        # Closing alone does not wake whoever accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(DEADLINE_S)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._between, args=(near,), daemon=True).start()

    def _between(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            near.settimeout(DEADLINE_S)
            with socket.create_connection(("127.0.0.1", self.target), timeout=DEADLINE_S) as far:
                back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
                back.start()
                self._carry(near, far)
                back.join(DEADLINE_S)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                self.heard += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class World:
    """Two nodes behind eavesdroppers, and a way to start programs beside them."""

    crew: Crew
    url: str
    ears: list[Eavesdropper]

    def outcome(self, seed: str, environment: dict[str, str]) -> Child:
        """What putting, getting, writing and faulting came to, with these certificates."""
        program = str(PROGRAMS / "secure.py")
        return self.crew.start("secure", program, seed, environment={COORDINATOR: self.url, **environment})

    def hears(self, part: bytes) -> bool:
        return any(part in ear.heard for ear in self.ears)


@contextlib.contextmanager
def world(nodes_with: dict[str, str], kept: dict[str, str] = APART) -> Iterator[World]:
    """Two nodes that keep objects and lend, reached only past an eavesdropper each."""
    secret = secrets.token_hex(32)
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(Crew({"WEFT_SECRET": secret, **kept, **nodes_with}, without=OWN_SETTINGS))
        url = start_coordinator(crew)
        nodes = [start_node(crew, name, url, 64 * MIB) for name in ("a", "b")]
        cluster = stack.enter_context(weft.connect(url, secret=secret, holder="tests"))
        ears = [Eavesdropper(node.port) for node in nodes]
        for node, ear in zip(nodes, ears, strict=True):
            stack.callback(ear.close)
            cluster.ask(cluster.coordinator.register_endpoint(node.name, "127.0.0.1", ear.port))
        yield World(crew, url, ears)


def test_pages_and_objects_move_between_machines_with_certificates_and_nobody_between_sees_them(
    tmp_path: Path,
) -> None:
    with world(issued(tmp_path / "certificates", "a", "b")) as cluster:
        child = cluster.outcome("a secret", issued(tmp_path / "certificates", "c"))
        assert child.line_with("put_and_get", DEADLINE_S) == "put_and_get: done"
        assert child.line_with("write_and_fault", DEADLINE_S) == "write_and_fault: done"
        content = hashlib.shake_256(b"a secret").digest(3 * MIB)
        assert sum(len(ear.heard) for ear in cluster.ears) > 6 * MIB
        assert not any(cluster.hears(content[start : start + 16]) for start in range(0, len(content), 64 * 1024))
        # A region's name, the wire's own mark at the head of a frame, and who speaks.
        assert not any(cluster.hears(word) for word in (b"secure", b"WEFT\x01", b"weft:a"))


def test_neighbours_with_certificates_find_each_other_as_ever(tmp_path: Path) -> None:
    with world(issued(tmp_path / "certificates", "a", "b"), kept={"WEFT_TRANSPORT": ""}) as cluster:
        child = cluster.outcome("a secret", issued(tmp_path / "certificates", "c"))
        assert child.line_with("put_and_get", DEADLINE_S) == "put_and_get: done"
        assert child.line_with("write_and_fault", DEADLINE_S) == "write_and_fault: done"
        assert not cluster.hears(hashlib.shake_256(b"a secret").digest(16))


def test_the_same_without_certificates_is_in_the_clear() -> None:
    with world({}) as cluster:
        child = cluster.outcome("a secret", {})
        assert child.line_with("put_and_get", DEADLINE_S) == "put_and_get: done"
        assert child.line_with("write_and_fault", DEADLINE_S) == "write_and_fault: done"
        content = hashlib.shake_256(b"a secret").digest(3 * MIB)
        assert cluster.hears(content[:16])
        assert cluster.hears(b"WEFT\x01")


def test_a_program_without_certificates_is_told_what_to_set(tmp_path: Path) -> None:
    with world(issued(tmp_path / "certificates", "a", "b")) as cluster:
        child = cluster.outcome("a secret", PLAIN)
        line = child.line_with("write_and_fault", DEADLINE_S)
        assert "write_and_fault: tls_mismatch: " in line
        assert "speaks TLS only; set WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY here as well" in line
        content = hashlib.shake_256(b"a secret").digest(3 * MIB)
        assert not cluster.hears(content[:16])


def test_a_program_of_another_authority_is_told_why_it_is_refused(tmp_path: Path) -> None:
    with world(issued(tmp_path / "ours", "a", "b")) as cluster:
        child = cluster.outcome("a secret", issued(tmp_path / "theirs", "c"))
        line = child.line_with("write_and_fault", DEADLINE_S)
        assert "write_and_fault: certificate_refused: " in line
        assert "another authority signed it; give every machine the same WEFT_TLS_CA" in line


def test_a_node_that_is_not_its_certificates_ends_at_its_start_naming_the_variable(tmp_path: Path) -> None:
    certificates = issued(tmp_path / "certificates", "a")
    with Crew({"WEFT_SECRET": "s" * 32, **certificates}, without=OWN_SETTINGS) as crew:
        url = start_coordinator(crew)
        with pytest.raises(CommandFailed, match=r"WEFT_TLS_CERT is for a, and this node is b; .*weft tls issue"):
            start_node(crew, "b", url, 64 * MIB)
