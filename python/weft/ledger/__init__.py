"""Journals: what gives every batch its position and keeps it."""

from weft.ledger.disk import DiskJournal, open_journal
from weft.ledger.journal import Journal
from weft.ledger.memory import MemoryJournal
from weft.ledger.sqlite import SqliteJournal

__all__ = ["DiskJournal", "Journal", "MemoryJournal", "SqliteJournal", "open_journal"]
