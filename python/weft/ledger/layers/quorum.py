"""The quorum layer: validators that keep a blob and sign for it, enough of whom must (`weft witness validator`).

A blob is kept when `threshold` validators, each counted once, have put it on their disks and signed for it, and each
signature was verified under the key that validator is known by. What if a validator signs twice, or two of them under
one key or one name? It counts once. What if one lies about bytes? They are verified, and another is asked. What if
fewer than the threshold sign? The put fails as soon as no more can come. Some validators may keep the blob, and a scan
may list it, but fewer than must have answered for it: it is not kept by this layer's meaning, and only putting it again
makes it so. That is why the failure is never called unknown: who finds such a blob in a scan must not take it for kept.

Any two sets of validators, one of `threshold` and one of `n - threshold + 1`, have a member in common. So a scan asks
the second number at least, or fails: with fewer it could miss a blob that was answered for. For the same reason
heights grow from one coordinator to the next: a put proposes a height above all that such a set has seen, validators
keep the blob at that height or above, and its height is the least of those who signed.

Below the threshold the layer calls itself unavailable, though some validators answer. No put could succeed, and a
router that took such a layer for a slow one would never go on to the next.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from weft.ledger.layer import Commitment, Cursor, LayerHealth, Receipt, Scan, commit_to
from weft.ledger.layers.gather import end_all, gather_all
from weft.ledger.layers.merging import merge, parse_places, spell_places
from weft.ledger.layers.ports import Clock, Http
from weft.ledger.layers.reading import QuorumReader
from weft.ledger.layers.validator import Validator, Vote
from weft.model.errors import BlobTooLarge, LayerFailed, LayerRefused, LayerUnknown, Misconfigured
from weft.model.policy import (
    LAYER_BLOB_BYTES_MAX,
    LAYER_PROBE_MS_MAX,
    LAYER_SCAN_BLOBS_MAX,
    LAYER_SLOW_MS,
    QUORUM_MIN,
    QUORUM_STRAGGLERS_MAX,
)
from weft.receipts import PublicKey


class ValidatorAddress(NamedTuple):
    """Where a validator is, and the key it is known by; None to take the first one it shows."""

    url: str
    public_key: PublicKey | None


def threshold_of(count: int, percent: int) -> int:
    """How many of so many validators must sign: a share of them, three at least, and never more than there are."""
    return min(count, max(math.ceil(count * percent / 100), QUORUM_MIN))


class QuorumLayer:
    """Blobs on several servers, each of which signs for what it keeps."""

    name: Final = "quorum"
    blob_bytes_max: Final = LAYER_BLOB_BYTES_MAX

    def __init__(
        self,
        http: Http,
        clock: Clock,
        addresses: Sequence[ValidatorAddress],
        cluster: PublicKey,
        token: str | None,
        *,
        threshold_percent: int,
        timeout_ms: int,
    ) -> None:
        self._validators = [
            Validator(http, address.url, address.public_key, cluster, token, self.name) for address in addresses
        ]
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._proposed: int | None = None
        self._stragglers: set[asyncio.Task[Vote]] = set()
        self.threshold = threshold_of(len(self._validators), threshold_percent)
        self.reads_min = len(self._validators) - self.threshold + 1
        self._reader = QuorumReader(self._validators, self.reads_min, timeout_ms, self.name)

    async def put(self, blob: bytes) -> Receipt:
        """Keep a blob on as many validators as must sign for it. Those who are slower still get it."""
        if len(blob) > self.blob_bytes_max:
            raise BlobTooLarge(
                f"the quorum layer takes blobs of at most {self.blob_bytes_max} bytes, not {len(blob)}",
                layer=self.name,
                size_bytes=len(blob),
                limit_bytes=self.blob_bytes_max,
            )
        commitment = commit_to(blob)
        if self._proposed is None:
            heads = await self._reader.heads()
            # Two first puts at once both learn; the later one must not take back what the earlier one has given out.
            self._proposed = max(self._proposed or 0, *heads)
        self._proposed += 1
        ballot = _Ballot(self.threshold, len(self._validators))
        pending = {
            asyncio.ensure_future(one.put(commitment, blob, self._proposed, self._timeout_ms)): one
            for one in self._validators
        }
        try:
            while pending and not ballot.is_won and not (ballot.is_lost and ballot.is_kept_perhaps):
                # It is lost and nobody is known to keep it: a moment more, and it may be certain that nobody does.
                patience_s = LAYER_SLOW_MS / 1_000 if ballot.is_lost else None
                done, _ = await asyncio.wait(pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    ballot.count(pending.pop(task), task)
        except BaseException:
            await end_all(pending)
            raise
        if ballot.is_won:
            self._leave(pending)
            height = min(vote.height for vote in ballot.votes.values())
            self._proposed = max(self._proposed, height)
            return Receipt(commitment, height)
        was_under_way = bool(pending)
        await end_all(pending)
        raise ballot.failure(self.name, commitment, was_under_way)

    async def get(self, commitment: Commitment) -> bytes:
        """A blob, verified, from whichever validator has it as it was put."""
        return await self._reader.get(commitment)

    async def scan(self, after: Cursor, count_max: int) -> Scan:
        """What validators keep, merged in the order of heights. A blob may come twice, and none is left out."""
        places = parse_places(after, self.name)
        stretches = await self._reader.lists(places, min(count_max, LAYER_SCAN_BLOBS_MAX))
        merged = merge(stretches, places, count_max)
        found = await gather_all([self._reader.find(one) for one in merged.lines])
        return Scan(
            kept=[one for one in found if not isinstance(one, str)],
            after=Cursor(spell_places(merged.places)) if merged.places else after,
            is_end=merged.is_end,
            damaged=[one for one in found if isinstance(one, str)],
        )

    async def probe(self) -> LayerHealth:
        """Whether enough validators answer for a put to succeed, counted as a put counts them: by key and by name."""
        began_ms = self._clock.monotonic_ms()
        timeout_ms = min(self._timeout_ms, LAYER_PROBE_MS_MAX)
        tasks = {asyncio.ensure_future(one.check(timeout_ms)) for one in self._validators}
        keys: set[PublicKey] = set()
        names: set[str] = set()
        try:
            for finished in asyncio.as_completed(tasks):
                try:
                    standing = await finished
                except LayerFailed:
                    continue
                keys.add(standing.public_key)
                names.add(standing.name)
                if min(len(keys), len(names)) >= self.threshold:
                    break
        finally:
            await end_all(tasks)
        if min(len(keys), len(names)) < self.threshold:
            return LayerHealth.UNAVAILABLE
        took_ms = self._clock.monotonic_ms() - began_ms
        return LayerHealth.DEGRADED if took_ms > LAYER_SLOW_MS else LayerHealth.HEALTHY

    async def check_members(self, within_ms: int) -> None:
        """See that validators are as many as they were listed. Those that do not answer in time are not waited for.

        Raises `Misconfigured` when two of them have one key or go by one name: a vote counts once, so the threshold
        would be further away than it looks.
        """
        known: dict[object, Validator] = {}
        standings = await asyncio.gather(*(one.health(within_ms) for one in self._validators), return_exceptions=True)
        for validator, standing in zip(self._validators, standings, strict=True):
            if isinstance(standing, LayerFailed):
                continue
            if isinstance(standing, BaseException):
                raise standing
            for what, sign in (("the key", standing.public_key), ("the name", standing.name)):
                other = known.setdefault((what, sign), validator)
                if other is not validator:
                    shown = sign.hex() if isinstance(sign, bytes) else sign
                    raise Misconfigured(
                        f"QUORUM_VALIDATORS names {other.url} and {validator.url}, and both have {what} {shown}; each "
                        "validator counts once. Name each once, and start each with a --name and a --data of its own",
                        variable="QUORUM_VALIDATORS",
                    )

    async def close(self) -> None:
        """Give up on validators that still have not answered. What they keep they keep."""
        await end_all(self._stragglers)

    def _leave(self, pending: "dict[asyncio.Task[Vote], Validator]") -> None:
        """Let the slower validators finish by themselves, so that more than the threshold keep the blob."""
        for task in pending:
            if len(self._stragglers) >= QUORUM_STRAGGLERS_MAX:
                task.cancel()
            self._stragglers.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Vote]") -> None:
        self._stragglers.discard(task)
        if not task.cancelled():
            task.exception()


class _Ballot:
    """Who has signed. A validator counts once, by its key and by its name."""

    def __init__(self, threshold: int, count: int) -> None:
        self._threshold = threshold
        self._outstanding = count
        self._names: set[str] = set()
        self._failures: list[LayerFailed] = []
        self._is_unknown = False
        self.votes: dict[PublicKey, Vote] = {}

    @property
    def is_won(self) -> bool:
        return len(self.votes) >= self._threshold

    @property
    def is_lost(self) -> bool:
        """Whether the threshold can no longer be reached, whoever else signs."""
        return len(self.votes) + self._outstanding < self._threshold

    @property
    def is_kept_perhaps(self) -> bool:
        """Whether anybody keeps the blob, or may."""
        return bool(self.votes) or self._is_unknown

    def count(self, validator: Validator, task: "asyncio.Task[Vote]") -> None:
        self._outstanding -= 1
        try:
            vote = task.result()
        except LayerFailed as error:
            self._failures.append(error)
            self._is_unknown = self._is_unknown or isinstance(error, LayerUnknown)
            return
        if vote.public_key in self.votes or vote.name in self._names:
            self._failures.append(
                LayerFailed(f"{validator.url} signs as {vote.name}, who was counted already", url=validator.url)
            )
            return
        self.votes[vote.public_key] = vote
        self._names.add(vote.name)

    def failure(self, layer: str, commitment: Commitment, was_under_way: bool) -> LayerFailed:
        """Why too few signed, naming those who did not."""
        reasons = "; ".join(error.message for error in self._failures)
        what = f"{len(self.votes)} validators signed and {self._threshold} must: {reasons}"
        facts = {
            "layer": layer,
            "signed": sorted(vote.name for vote in self.votes.values()),
            "failed": sorted(str(error.facts.get("url", "")) for error in self._failures),
        }
        if self.is_kept_perhaps or was_under_way:
            return LayerFailed(f"{what}. Too few keep the blob; put it again", commitment=commitment, **facts)
        if self._failures and all(isinstance(error, LayerRefused) for error in self._failures):
            return LayerRefused(what, **facts)
        return LayerFailed(what, **facts)
