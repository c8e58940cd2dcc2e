"""Availability layers: places that keep copies of the log and outlive the journal."""

from weft.ledger.layers.memory import MemoryLayer

__all__ = ["MemoryLayer"]
