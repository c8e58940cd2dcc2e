"""What TLS costs: the same transfers between the same two programs, plain and with certificates, in turn.

Both are Weft; the column that is the floor's elsewhere is the plain one here. The promise is the plain side's: it takes
the way it always took.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benches.rounds import Row, Sample, heading, in_turn, weft_program
from weft.dataplane import issue_certificate, make_authority

KIB, MIB = 1 << 10, 1 << 20
SIZES = ((4 * KIB, 8_000), (64 * KIB, 3_000), (MIB, 300), (64 * MIB, 9))
_HOUR_S = 3_600


def run() -> list[Row]:
    """The rows, reads first."""
    heading("one-sided over TCP, from Python, loopback: plain (the floor here) and under TLS")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        certificates = _certificates(Path(folder))
        for operation in ("read", "write"):
            for size_bytes, count in SIZES:
                small = size_bytes == 4 * KIB
                size = f"{size_bytes // KIB} KiB" if size_bytes < MIB else f"{size_bytes // MIB} MiB"
                row = Row(f"{operation} {size}", "µs" if small else "GB/s", "")
                program = _program(operation, size_bytes, count)
                rows += in_turn({"p50_us" if small else "gb_per_s": row}, program({}), program(certificates))
    return rows


def _program(operation: str, size_bytes: int, count: int) -> Callable[[dict[str, str]], Callable[[], Sample]]:
    def with_settings(settings: dict[str, str]) -> Callable[[], Sample]:
        def measure() -> Sample:
            # The programs inherit this process's environment, and nothing else of it runs meanwhile.
            os.environ.update(settings)
            try:
                return weft_program("endpoint", operation, size_bytes, count, "tcp")
            finally:
                for variable in settings:
                    del os.environ[variable]

        return measure

    return with_settings


def _certificates(folder: Path) -> dict[str, str]:
    now_s = int(time.time())
    authority, authority_key = make_authority(now_s=now_s, lasts_s=_HOUR_S)
    certificate, key = issue_certificate(authority_key, ("bench",), now_s=now_s, lasts_s=_HOUR_S)
    parts = {"WEFT_TLS_CA": authority, "WEFT_TLS_CERT": certificate, "WEFT_TLS_KEY": key}
    settings = {variable: str(folder / variable) for variable in parts}
    for variable, text in parts.items():
        path = Path(settings[variable])
        path.touch(mode=0o600)
        path.write_text(text)
    return settings
