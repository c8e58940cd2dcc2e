"""From a place to the journal there. The engines' clients are imported only where their engine was asked for."""

from pathlib import Path

from weft.ledger.disk import open_disk_journal
from weft.ledger.journal import Journal, SharedJournal
from weft.ledger.memory import MemoryJournal
from weft.model.errors import Misconfigured
from weft.model.journal import JournalKind, JournalPlace


async def open_journal(place: JournalPlace, directory: Path) -> Journal:
    """The journal at a place; SQLite's file is in `directory`. Raises `JournalFailed` or `Misconfigured`."""
    match place.kind:
        case JournalKind.MEMORY:
            return MemoryJournal()
        case JournalKind.SQLITE:
            return open_disk_journal(directory)
        case JournalKind.NATS | JournalKind.POSTGRES:
            return await open_shared_journal(place)


async def open_shared_journal(place: JournalPlace) -> SharedJournal:
    """The journal several coordinators reach."""
    try:
        if place.kind is JournalKind.NATS:
            from weft.ledger.nats import NatsJournal

            return await NatsJournal.open(place)
        from weft.ledger.postgres import PostgresJournal

        return await PostgresJournal.open(place)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"a journal in {place.kind} needs the module {error.name}; pip install 'weft[journals]'",
            variable="WEFT_JOURNAL",
        ) from error
