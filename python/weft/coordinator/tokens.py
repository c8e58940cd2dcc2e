"""Changing tokens while the process runs: the file they are in is read again when it changes, and when told to.

What if the file is half written, empty or gone at that moment? The tokens that hold go on holding, a line says why, and
the next look reads it again. Replace it by renaming, and no moment is a bad one. What if it holds a token that would
not have been good enough at the start? Then it is not good enough now, and the file is left alone as an empty one is.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from weft.config import read_token_file
from weft.model.errors import Misconfigured
from weft.serve import Gate
from weft.telemetry import Log

LOOK_S: Final = 1.0
"""How often the file's stamp is looked at: one call to the kernel, and nobody changes tokens more often."""

Stamp = tuple[int, int, int]


class TokenFile:
    """The tokens of a gate: those that are fixed, and those of a file. `check` raises when new ones are no good."""

    def __init__(
        self, gate: Gate, fixed: Iterable[str], path: Path, log: Log, check: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._gate = gate
        self._fixed = tuple(fixed)
        self._path = path
        self._log = log
        self._check = check
        self._stamp: Stamp | None = None
        self._failed = False

    def look(self, *, always: bool = False) -> None:
        """Read the file if it is another than last time, or in any case."""
        stamp = self._stamp_now()
        if stamp == self._stamp and not always and not self._failed:
            return
        try:
            tokens = read_token_file(self._path)
            self._check(tokens)
        except Misconfigured as error:
            if not self._failed or always:
                self._log.warning("the tokens stay as they are", reason=error.message)
            self._failed = True
            return
        self._stamp, self._failed = stamp, False
        self._gate.accept((*self._fixed, *tokens))
        self._log.info("tokens read", count=len(tokens), path=str(self._path))

    async def keep_looking(self) -> None:
        """For as long as the process runs."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def _stamp_now(self) -> Stamp | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
