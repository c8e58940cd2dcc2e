"""Reading from validators of whom some may be away, slow, or lying.

What was answered for is with one at least of every `reads_min` validators. So that many must have answered before
anything is called missing, or before a list is called whole.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from weft.ledger.layer import Commitment, Kept
from weft.ledger.layers.gather import end_all
from weft.ledger.layers.merging import MergedLine, Places, Stretch, sign_of
from weft.ledger.layers.validator import Validator
from weft.model.errors import BlobDamaged, BlobMissing, LayerFailed
from weft.model.policy import LAYER_SLOW_MS

T = TypeVar("T")
_GETS_AT_ONCE: Final = 8
"""Blobs fetched side by side in a scan: enough to fill a link, and no more than 16 MiB on the way."""


class QuorumReader:
    """Reads on behalf of the layer."""

    def __init__(self, validators: Sequence[Validator], reads_min: int, timeout_ms: int, layer: str) -> None:
        self._validators = validators
        self._reads_min = reads_min
        self._timeout_ms = timeout_ms
        self._layer = layer
        self._hands = asyncio.Semaphore(_GETS_AT_ONCE)

    async def heads(self) -> list[int]:
        """How far validators have come, as many of them as must be asked."""

        async def ask(validator: Validator) -> tuple[Any, int]:
            standing = await validator.health(self._timeout_ms)
            return standing.public_key, standing.height

        return await self._ask_enough(ask, wait_for_others_ms=0)

    async def lists(self, places: Places, count_max: int) -> list[Stretch]:
        """What validators list behind these places: of all who answer, and of as many as must."""

        async def ask(validator: Validator) -> tuple[Any, Stretch]:
            key = await validator.key(self._timeout_ms)
            sign = sign_of(key)
            page = await validator.list(places.get(sign, 0), count_max, self._timeout_ms)
            return key, Stretch(self._validators.index(validator), sign, page)

        return await self._ask_enough(ask, wait_for_others_ms=LAYER_SLOW_MS)

    async def find(self, line: MergedLine) -> Kept | Commitment:
        """The blob of a line, those who list it asked first; its commitment when nobody has it as it was."""
        async with self._hands:
            try:
                return Kept(line.commitment, line.height, await self.get(line.commitment, line.sources))
            except (BlobDamaged, BlobMissing):
                return line.commitment

    async def get(self, commitment: Commitment, first: Sequence[int] = ()) -> bytes:
        """A blob from whoever has it as it was put. One who is slow is not waited for before the next is asked too."""
        rest = [place for place in range(len(self._validators)) if place not in first]
        waiting = [self._validators[place] for place in (*first, *rest)]
        waiting.reverse()
        asked: set[asyncio.Task[bytes]] = set()
        missing_count = 0
        damaged: list[BlobDamaged] = []
        failed: list[LayerFailed] = []
        try:
            async with asyncio.timeout(self._timeout_ms / 1_000):
                while waiting or asked:
                    if waiting:
                        validator = waiting.pop()
                        asked.add(asyncio.ensure_future(validator.get(commitment, self._timeout_ms)))
                    patience_s = LAYER_SLOW_MS / 1_000 if waiting else None
                    done, asked = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        match task.exception():
                            case None:
                                return task.result()
                            case BlobDamaged() as error:
                                damaged.append(error)
                            case BlobMissing():
                                missing_count += 1
                            case LayerFailed() as error:
                                failed.append(error)
                            case error:
                                raise error
                    if missing_count >= self._reads_min:
                        # One of them would have it if it had been answered for; the others need not be waited for.
                        raise self._missing(commitment)
        except TimeoutError:
            failed.append(LayerFailed(f"some took longer than {self._timeout_ms} ms", layer=self._layer))
        finally:
            await end_all(asked)
        if failed:
            # Those who have it may be among those who did not answer.
            raise LayerFailed(
                f"too few validators answer to tell whether blob {commitment} is kept: {_sentences(failed)}",
                layer=self._layer,
                commitment=commitment,
            )
        if damaged:
            raise BlobDamaged(_sentences(damaged), layer=self._layer, commitment=commitment)
        raise self._missing(commitment)

    async def _ask_enough(
        self, ask: Callable[[Validator], Awaitable[tuple[Any, T]]], *, wait_for_others_ms: int
    ) -> list[T]:
        """What validators answer, one answer a key. Raises `LayerFailed` when fewer answer than must."""
        pending = {asyncio.ensure_future(ask(validator)) for validator in self._validators}
        answers: dict[Any, T] = {}
        failures: list[LayerFailed] = []
        try:
            while pending:
                is_enough = len(answers) >= self._reads_min
                patience_s = wait_for_others_ms / 1_000 if is_enough else None
                done, pending = await asyncio.wait(pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    try:
                        key, answer = task.result()
                    except LayerFailed as error:
                        failures.append(error)
                    else:
                        answers.setdefault(key, answer)
        finally:
            await end_all(pending)
        if len(answers) < self._reads_min:
            raise LayerFailed(
                f"{len(answers)} validators answer and {self._reads_min} must, or what others keep could be missed: "
                f"{_sentences(failures)}",
                layer=self._layer,
            )
        return list(answers.values())

    def _missing(self, commitment: Commitment) -> BlobMissing:
        return BlobMissing(f"no validator keeps a blob {commitment}", layer=self._layer, commitment=commitment)


def _sentences(errors: Sequence[LayerFailed]) -> str:
    return "; ".join(error.message for error in errors)
