"""The demo, as a person runs it: it tells its story, ends by itself, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.process.conftest import DEADLINE_S

pytestmark = pytest.mark.process


def demo(*arguments: str, temporary: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "weft.cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120"},
    )


def processes_mentioning(text: str) -> list[str]:
    """Command lines and environments of processes that belong to a demo whose files are under `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                described = (entry / "cmdline").read_bytes() + bytes((entry / "cwd").readlink())
            except OSError:
                continue
            if text.encode() in described:
                found.append(described.decode(errors="replace"))
    return found


def test_the_demo_moves_a_file_loses_a_lender_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1_000_003))
    with tempfile.TemporaryDirectory() as temporary:
        process = demo(str(file), "--size", "12MiB", temporary=Path(temporary))
        output, errors = process.communicate(timeout=2 * DEADLINE_S)

        assert process.returncode == 0, output + errors
        for part in (
            "equal to the files read directly",
            "at random",
            "page lost: region demo",
            "SIGBUS, Bus error",
            "extent_lost",
        ):
            assert part in " ".join(output.split()), output
        assert list(Path(temporary).iterdir()) == []
        assert processes_mentioning(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_ends_every_process_it_started(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        process = demo(temporary=Path(temporary))
        assert process.stdout is not None
        while "lending" not in process.stdout.readline():
            assert process.poll() is None, process.communicate()

        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)

        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "every process of the demo was ended" in errors
        assert list(Path(temporary).iterdir()) == []
        assert processes_mentioning(temporary) == []


def test_a_demo_that_is_killed_takes_its_processes_along() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        process = demo(temporary=Path(temporary))
        assert process.stdout is not None
        while "lending" not in process.stdout.readline():
            assert process.poll() is None, process.communicate()

        process.kill()
        process.communicate(timeout=DEADLINE_S)

        ends_s = time.monotonic() + DEADLINE_S
        while processes_mentioning(temporary) and time.monotonic() < ends_s:
            time.sleep(0.05)
        assert processes_mentioning(temporary) == []


def test_the_ledger_s_demo_loses_its_layers_brings_them_back_and_ends_in_a_green_report() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        process = demo("ledger", temporary=Path(temporary))
        output, errors = process.communicate(timeout=2 * DEADLINE_S)

        assert process.returncode == 0, output + errors
        for part in (
            "fallback_secondary",
            "fallback_emergency",
            "1 reconciliation for 1 failover",
            "and 0 lost",
            "rebuilt from the primary alone is the same",
            "compared byte for byte, 0 differ",
        ):
            assert part in " ".join(output.split()), output
        assert list(Path(temporary).iterdir()) == []
        assert processes_mentioning(temporary) == []
