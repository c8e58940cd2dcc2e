"""What the world is to a coordinator: time and chance, handed in by whoever composes the process."""

from typing import Protocol


class Clock(Protocol):
    """Two times: one that people read and may jump, one that only grows and measures."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, for facts in the log."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds from some start, for deadlines and silences."""
        ...


class Random(Protocol):
    """Bytes nobody can foresee."""

    def draw(self, size_bytes: int) -> bytes:
        """So many of them."""
        ...
