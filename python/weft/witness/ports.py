"""What the world is to a witness: chance, handed in by whoever composes the process."""

from typing import Protocol


class Random(Protocol):
    """Bytes nobody can foresee."""

    def draw(self, size_bytes: int) -> bytes:
        """So many of them."""
        ...
