"""What the coordinator asked of a node's objects, the next thing to do about it, and what is to be reported.

The plan comes whole, with a generation: copies to fetch, objects to let go of, objects to look at again. A plan that is
late is passed over, and one that comes twice is no news. What a newer plan no longer names and nobody has begun is
forgotten; what was begun is finished, since its outcome is a fact either way.

Reports say what became true of one object each: it is held, it is missing, it is corrupt, it could not be fetched. They
are kept until a beat that carried them was answered, so none is lost; the latest about an object replaces the earlier.
An *inventory* is everything that is held, said once to a coordinator that asks for it under a number of its own: with
the last of it comes word that this was all, from which the coordinator knows what is not there.

Pure: the shell does what `next_copy`, `next_drop` and `next_check` say and reports how it went.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

from msgspec import Struct

from weft.model.ids import Generation, NodeId
from weft.model.object import ObjectHash
from weft.model.policy import COPIES_AT_ONCE_MAX, OBJECT_REPORTS_MAX

State = Literal["held", "missing", "corrupt", "dropped", "failed"]


class WantedCopy(Struct, frozen=True, kw_only=True):
    """An object to fetch, from the first of these nodes that gives it."""

    object_hash: ObjectHash
    size_bytes: int
    sources: tuple[NodeId, ...]


class Finding(Struct, frozen=True, kw_only=True):
    """What became true of an object here. `doubted` are the sources whose copy turned out to be wrong."""

    object_hash: ObjectHash
    state: State
    error: str | None = None
    doubted: tuple[NodeId, ...] = ()


class Word(Struct, frozen=True, kw_only=True):
    """What a beat says of objects. `inventory` is the number under which the list was asked for, 0 for none."""

    findings: tuple[Finding, ...]
    inventory: int
    complete: bool


class Errands:
    """The errands of one life of a node."""

    def __init__(self) -> None:
        self._generation = Generation(0)
        self._copies: dict[ObjectHash, WantedCopy] = {}
        self._drops: dict[ObjectHash, None] = {}
        self._checks: dict[ObjectHash, None] = {}
        self._under_way: set[ObjectHash] = set()
        self._copying: set[ObjectHash] = set()
        self._again_at_s: dict[ObjectHash, float] = {}
        self._findings: dict[ObjectHash, Finding] = {}
        self._inventory = 0
        self._list: dict[ObjectHash, None] = {}
        self._said_all = 0

    @property
    def generation(self) -> Generation:
        """The newest plan that arrived."""
        return self._generation

    @property
    def is_eager(self) -> bool:
        """Whether there is something to report that the next beat should not wait with."""
        return bool(self._findings or self._list) or self._said_all != self._inventory

    @property
    def under_way_count(self) -> int:
        """How many errands somebody has begun and not ended."""
        return len(self._under_way)

    def aim(
        self,
        generation: Generation,
        copies: Sequence[WantedCopy],
        drops: Sequence[ObjectHash],
        checks: Sequence[ObjectHash],
    ) -> bool:
        """Takes a plan; False when it is no news."""
        if generation <= self._generation:
            return False
        self._generation = generation
        self._copies = {copy.object_hash: copy for copy in copies}
        self._drops = dict.fromkeys(drops)
        self._checks = dict.fromkeys(checks)
        self._again_at_s = {
            one: at_s for one, at_s in self._again_at_s.items() if one in self._copies or one in self._checks
        }
        return True

    def next_copy(self, now_s: float) -> WantedCopy | None:
        """The next object to fetch. Few at a time, and none again right after it failed."""
        if len(self._copying) >= COPIES_AT_ONCE_MAX:
            return None
        for object_hash, copy in self._copies.items():
            if object_hash not in self._under_way and self._again_at_s.get(object_hash, 0.0) <= now_s:
                return copy
        return None

    def next_again_s(self, now_s: float) -> float | None:
        """When the next of what failed may be tried again, or None.

        What is due already waits for something else to end, and is no reason to wake up before that.
        """
        waiting = [at_s for one, at_s in self._again_at_s.items() if one not in self._under_way and at_s > now_s]
        return min(waiting, default=None)

    def next_drop(self) -> ObjectHash | None:
        """The next object to let go of."""
        return next((one for one in self._drops if one not in self._under_way), None)

    def next_check(self, now_s: float) -> ObjectHash | None:
        """The next object to look at again. One that could not be looked at waits a while."""
        for object_hash in self._checks:
            if object_hash not in self._under_way and self._again_at_s.get(object_hash, 0.0) <= now_s:
                return object_hash
        return None

    def begin_copy(self, copy: WantedCopy) -> None:
        """A copy is under way; it ends with `end` or `fail`."""
        self._copying.add(copy.object_hash)
        self._under_way.add(copy.object_hash)

    def begin(self, object_hash: ObjectHash) -> None:
        """Any other errand is under way; it ends with `end`, or, where it is a look, with `put_off`."""
        self._under_way.add(object_hash)

    def end(self, finding: Finding) -> None:
        """An errand is done, and this is what came of it."""
        self._forget(finding.object_hash)
        self.find(finding)

    def fail(self, finding: Finding, again_at_s: float) -> None:
        """A copy could not be fetched. It is tried again while the plan names it, and the coordinator knows."""
        self._under_way.discard(finding.object_hash)
        self._copying.discard(finding.object_hash)
        if finding.object_hash in self._copies:
            self._again_at_s[finding.object_hash] = again_at_s
        self.find(finding)

    def put_off(self, object_hash: ObjectHash, again_at_s: float) -> None:
        """An object could not be looked at, which says nothing of it. It is looked at later while the plan names it."""
        self._under_way.discard(object_hash)
        if object_hash in self._checks:
            self._again_at_s[object_hash] = again_at_s

    def find(self, finding: Finding) -> None:
        """Something became true of an object, on an errand or not."""
        if finding.state != "held":
            self._list.pop(finding.object_hash, None)
        self._findings[finding.object_hash] = finding

    def take_inventory(self, number: int, held: Iterable[ObjectHash]) -> None:
        """A coordinator asks for everything that is held, under a number it has not asked under before."""
        self._inventory = number
        self._list = dict.fromkeys(held)

    @property
    def inventory(self) -> int:
        """The number everything was last asked for under."""
        return self._inventory

    def word(self) -> Word:
        """What the next beat says: news first, then the list, as much as a beat carries."""
        findings = list(self._findings.values())[:OBJECT_REPORTS_MAX]
        listed = OBJECT_REPORTS_MAX - len(findings)
        said = {finding.object_hash for finding in findings}
        findings += [Finding(object_hash=one, state="held") for one in islice(self._list, listed) if one not in said]
        complete = len(self._list) <= listed and len(self._findings) <= OBJECT_REPORTS_MAX
        return Word(findings=tuple(findings), inventory=self._inventory, complete=complete)

    def heard(self, word: Word) -> None:
        """A beat that said this was answered: it need not be said again, unless something newer is to be said."""
        for finding in word.findings:
            if self._findings.get(finding.object_hash) is finding:
                del self._findings[finding.object_hash]
        if word.inventory != self._inventory:
            return
        for finding in word.findings:
            self._list.pop(finding.object_hash, None)
        if word.complete:
            self._said_all = word.inventory

    def _forget(self, object_hash: ObjectHash) -> None:
        self._under_way.discard(object_hash)
        self._copying.discard(object_hash)
        self._copies.pop(object_hash, None)
        self._drops.pop(object_hash, None)
        self._checks.pop(object_hash, None)
        self._again_at_s.pop(object_hash, None)
