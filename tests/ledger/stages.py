"""Layers on a stage: each opened as it is in life, with a way to take it away, bring it back and do it harm."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from weft.ledger.layer import Commitment, Layer
from weft.ledger.layers import MemoryLayer
from weft.testing.faults import Fault


class Stage(Protocol):
    """A layer, and the hand that harms it."""

    @property
    def layer(self) -> Layer: ...

    async def take_away(self) -> None:
        """Nobody reaches the layer from now on."""

    async def bring_back(self) -> None:
        """They do again."""

    async def damage(self, commitment: Commitment) -> None:
        """Other bytes lie where a blob did, wherever the layer keeps it."""

    async def lose_next_answer(self) -> None:
        """The next put is done, and whoever asked for it does not hear so."""


class SystemClock:
    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class SystemRandom:
    def draw(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)


class MemoryStage:
    def __init__(self) -> None:
        self.layer = MemoryLayer(SystemClock(), SystemRandom())

    async def take_away(self) -> None:
        self.layer.is_down = True

    async def bring_back(self) -> None:
        self.layer.is_down = False

    async def damage(self, commitment: Commitment) -> None:
        self.layer.damage(commitment, b"something else")

    async def lose_next_answer(self) -> None:
        self.layer.fails_after = Fault.after(0)


STAGES = ["memory"]


@asynccontextmanager
async def open_stage(name: str, directory: Path) -> AsyncIterator[Stage]:
    if name == "memory":
        stage = MemoryStage()
        yield stage
        await stage.layer.close()
