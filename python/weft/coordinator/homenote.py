"""The home note: how far the primary layer holds the log, left in a shared journal for whoever writes next.

Each coordinator remembers on its own disk how far it has shipped. One that takes over on another machine has neither
that nor the archive of what stood on a chain, and a chain forgets after some days: what it asks for and is not given
may have been pruned as well as never put. So the writer leaves beside the log, now and then, how far the primary holds
all of it, with nothing of it on the pending list of this disk.

What if the note is of another log, as after a log was given up and lived on with? It names the digest of the batch it
ends with, and counts only where the journal has that batch. What if the primary was exchanged? It names the layer.
What if it is old? Then what came after it is looked for, as without a note.
"""

from typing import Final

import msgspec

from weft.ledger import SharedJournal
from weft.model.canonical import canonical_bytes
from weft.model.errors import JournalFailed
from weft.model.ids import Position
from weft.telemetry import Log


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """Up to this batch, by its position and digest, everything is in the layer."""

    layer: str
    position: Position
    digest: bytes


_decoder: Final = msgspec.msgpack.Decoder(Home)


class HomeNote:
    """Reads and leaves the note for one coordinator."""

    def __init__(self, journal: SharedJournal, layer: str, log: Log) -> None:
        """`layer` is what the primary is called."""
        self._journal = journal
        self._layer = layer
        self._log = log
        self._left = Position(0)

    async def read(self) -> Position:
        """How far the primary holds this log, as far as anybody has said; 0 when nobody can know."""
        try:
            home = _decoder.decode(await self._journal.last_note())
            if home.layer == self._layer and await self._digest_at(home.position) == home.digest:
                return home.position
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Position(0)
        except JournalFailed as error:
            self._log.warning("how far others shipped could not be read", code=error.code, reason=error.message)
        return Position(0)

    async def leave(self, position: Position) -> None:
        """Say that the primary holds everything up to a position. What cannot be said now is said another time."""
        if position == self._left or position == 0:
            return
        try:
            digest = await self._digest_at(position)
            if digest is not None:
                home = Home(layer=self._layer, position=position, digest=digest)
                await self._journal.note(canonical_bytes(home))
                self._left = position
        except JournalFailed as error:
            self._log.warning("how far the log was shipped could not be told", code=error.code, reason=error.message)

    async def _digest_at(self, position: Position) -> bytes | None:
        """The digest of the batch there; None where the journal ends before it, or begins after it."""
        if not await self._journal.oldest() <= position <= await self._journal.tail():
            return None
        run = await self._journal.read(Position(position - 1), 1)
        return run[0].digest if run else None
