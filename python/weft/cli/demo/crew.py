"""The demo's processes: started with what they need and nothing else, watched with deadlines, ended by their ids.

Every process is started in a session of its own, so that Ctrl-C reaches the demo alone and the demo ends the others in
order. The crew is a context manager: whichever way its block is left, each child is asked to end, then killed, then
reaped, and the folder they kept their things in is removed. Should the demo itself be killed, the kernel ends them:
each child asks for a SIGKILL on its parent's death before it becomes what it is.
"""

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from weft.cli.demo.interrupt import take_interrupt
from weft.cli.demo.ports import PortBlock
from weft.cli.failure import CommandFailed

# prctl(2): PR_SET_PDEATHSIG.
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

# How long a child may take to end after SIGTERM before it is killed.
STOP_S = 3.0
# How many of a child's last lines are kept for the message when it fails.
_LINES_KEPT = 400


class Child:
    """One process and the lines it prints. Output and errors are one stream, so that their order is kept."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.process = process
        self.lines: list[str] = []
        self._arriving: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._collect, name=f"lines of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def line_with(self, part: str, deadline_s: float) -> str:
        """Waits for a line that contains `part` and returns it.

        Raises CommandFailed with the child's last line when it ends first, or when the deadline passes.
        """
        ends_at = time.monotonic() + deadline_s
        while True:
            try:
                line = self._arriving.get(timeout=max(0.0, ends_at - time.monotonic()))
            except queue.Empty:
                raise CommandFailed(
                    f"{self.name} said nothing of {part!r} within {deadline_s:.0f} s; its last line: {self.last_line}"
                ) from None
            if line is None:
                self._arriving.put(None)
                raise CommandFailed(f"{self.name} ended ({self.ended_by(deadline_s)}); its last line: {self.last_line}")
            if part in line:
                return line

    @property
    def last_line(self) -> str:
        """The last line that was not empty, or a word saying that there was none."""
        return next((line for line in reversed(self.lines) if line.strip()), "(none)")

    def say(self, line: str) -> None:
        """Writes a line to the child's standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise CommandFailed(f"{self.name} does not listen any more; its last line: {self.last_line}") from error

    def wait(self, deadline_s: float) -> int:
        """Waits for the end and returns the exit status, negative for a signal. Every line is in `lines` by then."""
        try:
            status = self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"{self.name} did not end in {deadline_s:.0f} s") from error
        while self._arriving.get(timeout=deadline_s) is not None:
            pass
        self._arriving.put(None)
        return status

    def ended_by(self, deadline_s: float) -> str:
        """How the process ended, in words."""
        return describe_status(self.wait(deadline_s))

    def kill(self) -> None:
        """Ends the process at once, as a power cut would (SIGKILL), and reaps it."""
        self.process.kill()
        self.process.wait(timeout=STOP_S)

    def end(self) -> None:
        """Asks the process to end, ends it if it does not, and lets go of its pipes. Ending twice is harmless."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        # What is still unwritten was meant for somebody who is gone.
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        # A grandchild may hold the other end of the output open; then the reader outlives us as a daemon.
        self._reader.join(STOP_S)

    def _collect(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                del self.lines[:-_LINES_KEPT]
                self._arriving.put(self.lines[-1])
        self._arriving.put(None)


class Crew:
    """The processes of one demo, their folder and their environment."""

    def __init__(self, environment: Mapping[str, str], without: Collection[str] = ()) -> None:
        """Children get this process's environment, less `without`, and `environment` over it."""
        inherited = {name: value for name, value in os.environ.items() if name not in without}
        self._environment = {**inherited, **environment}
        self._folder = tempfile.TemporaryDirectory(prefix="weft-demo-", ignore_cleanup_errors=True)
        self._children: list[Child] = []
        self._ports: PortBlock | None = None

    @property
    def ports(self) -> PortBlock:
        """The ports of this crew's nodes.

        Raises CommandFailed when other crews have them all.
        """
        if self._ports is None:
            self._ports = PortBlock()
        return self._ports

    @property
    def folder(self) -> Path:
        """Where the children keep their things; gone afterwards."""
        return Path(self._folder.name)

    def start(self, name: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> Child:
        """Starts this Python with these arguments, `-m` and a module first of all."""
        process = subprocess.Popen(  # noqa: S603 - the program is this Python, the arguments are the demo's own
            [sys.executable, "-u", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **environment},
            cwd=self.folder,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        child = Child(name, process)
        self._children.append(child)
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C during the end must not leave anything behind.
        take_interrupt()
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            signal.signal(signal.SIGINT, previous)

    def stop(self) -> None:
        """Ends every process, the latest first, lets the ports go, and removes the folder."""
        # Nodes say goodbye to the coordinator, which was started first, so it is ended last.
        for child in reversed(self._children):
            child.end()
        if self._ports is not None:
            self._ports.close()
        self._folder.cleanup()


def describe_status(status: int) -> str:
    """An exit status as a person would say it."""
    if status >= 0:
        return f"exit status {status}"
    return f"{signal.Signals(-status).name}, {signal.strsignal(-status)}"


def _die_with_parent() -> None:
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
