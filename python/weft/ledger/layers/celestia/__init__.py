"""The layer on Celestia: its JSON-RPC, its commitments, submitting and reading."""

from weft.ledger.layers.celestia.layer import CelestiaLayer

__all__ = ["CelestiaLayer"]
