"""Availability layers: places that keep copies of the log and outlive the journal."""

from weft.ledger.layers.celestia import CelestiaLayer
from weft.ledger.layers.emergency import EmergencyLayer
from weft.ledger.layers.memory import MemoryLayer
from weft.ledger.layers.network import HttpxHttp
from weft.ledger.layers.quorum import QuorumLayer, ValidatorAddress
from weft.ledger.layers.retrying import RetryingLayer

__all__ = [
    "CelestiaLayer",
    "EmergencyLayer",
    "HttpxHttp",
    "MemoryLayer",
    "QuorumLayer",
    "RetryingLayer",
    "ValidatorAddress",
]
