"""Journals: what gives every batch its position and keeps it."""

from weft.ledger.journal import Journal
from weft.ledger.memory import MemoryJournal
from weft.ledger.sqlite import SqliteJournal

__all__ = ["Journal", "MemoryJournal", "SqliteJournal"]
