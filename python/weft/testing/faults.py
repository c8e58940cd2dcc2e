"""Faults, injected by wrapping a port: with a countdown, a probability, or until somebody mends it.

disk.refuses = Fault(random, chance=0.1)      # one append in ten
memory.full = Fault.after(3)                  # the fourth reservation, once
memory.full = Fault.lasting()                 # every one, until it is mended
"""

import random


class Fault:
    """Says, each time it is asked, whether it strikes."""

    def __init__(self, chance_of: random.Random | None = None, *, chance: float = 0.0) -> None:
        self._random = chance_of
        self.chance = chance
        self.countdown: int | None = None
        self.struck_count = 0

    @classmethod
    def after(cls, count: int) -> "Fault":
        """Strikes once, after so many times without."""
        fault = cls()
        fault.countdown = count
        return fault

    @classmethod
    def lasting(cls) -> "Fault":
        """Strikes every time."""
        return cls(chance=1.0)

    def mend(self) -> None:
        """Strike no more."""
        self.chance, self.countdown = 0.0, None

    def strikes(self) -> bool:
        """Whether it strikes this time."""
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown >= 0:
                return False
            self.countdown = None
            self.struck_count += 1
            return True
        if self.chance <= 0.0:
            return False
        if self.chance < 1.0 and (self._random is None or self._random.random() >= self.chance):
            return False
        self.struck_count += 1
        return True
