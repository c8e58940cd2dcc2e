"""Journals: what gives every batch its position and keeps it."""

from weft.ledger.disk import DiskJournal
from weft.ledger.journal import Journal, SharedJournal
from weft.ledger.memory import MemoryJournal
from weft.ledger.opening import open_journal, open_shared_journal
from weft.ledger.sqlite import SqliteJournal

__all__ = [
    "DiskJournal",
    "Journal",
    "MemoryJournal",
    "SharedJournal",
    "SqliteJournal",
    "open_journal",
    "open_shared_journal",
]
