"""What a node holds against what it should hold, and the next thing to do about the difference.

The coordinator's reply is a whole target, never a change, so an answer that is lost, late or repeated does no harm: the
next one says it all again, and a target older than the last is passed over. Work falls into two lanes. *Fences* (refuse
older generations, release) take milliseconds and somebody waits for them; *reservations* back memory and may take a
minute. A fence never queues behind a reservation.

Pure: the shell does what `next_fence` and `next_reservation` say, one at a time a lane, and reports how it went.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from weft.model.ids import Generation, RegionId

ExtentKey = tuple[RegionId, int]


class WantedExtent(Struct, frozen=True, kw_only=True):
    """An extent the coordinator wants held. `generation` is the lowest that may still open it."""

    region_id: RegionId
    region: str
    index: int
    size_bytes: int
    generation: Generation


class Reserve(Struct, frozen=True, kw_only=True):
    """Make room for an extent and back it."""

    extent: WantedExtent


class RaiseGeneration(Struct, frozen=True, kw_only=True):
    """Refuse grants of a region that are older than this."""

    region_id: RegionId
    generation: Generation


class Release(Struct, frozen=True, kw_only=True):
    """Give an extent's memory back."""

    region_id: RegionId
    index: int


Fence = RaiseGeneration | Release


class HeldState(Struct, frozen=True, kw_only=True):
    """An extent as it is here: ready with its bytes backed, or failed with the reason."""

    state: Literal["ready", "failed"]
    size_bytes: int
    error: str | None = None


class Holdings:
    """The extents of one life of a node: what the coordinator wants held, and what is."""

    def __init__(self) -> None:
        self._target: dict[ExtentKey, WantedExtent] = {}
        self._target_generation = Generation(0)
        self._fenced_generation = Generation(0)
        self._held: dict[ExtentKey, HeldState] = {}
        self._floors: dict[RegionId, Generation] = {}
        self._under_way: set[ExtentKey] = set()

    @property
    def generation(self) -> Generation:
        """The newest target whose fences stand and whose releases are done.

        Reservations are not waited for: each extent is reported by itself when it is ready, and until then no
        attachment of its region can exist that a fence would have to keep out. A reservation that is under way and not
        wanted any more is waited for, since its memory is still to be released.
        """
        settled = self.next_fence() is None and self._under_way <= self._target.keys()
        return self._target_generation if settled else self._fenced_generation

    @property
    def behind(self) -> bool:
        """Whether the target is not carried out yet."""
        return self.generation != self._target_generation

    @property
    def reserved_bytes(self) -> int:
        """How much memory is backed now."""
        return sum(held.size_bytes for held in self._held.values() if held.state == "ready")

    def aim(self, generation: Generation, extents: Sequence[WantedExtent]) -> bool:
        """Takes a target; False when it is no news. One older than the present target is a late answer."""
        if generation <= self._target_generation:
            return False
        self._fenced_generation = self.generation
        self._target_generation = generation
        self._target = {(extent.region_id, extent.index): extent for extent in extents}
        # What failed takes no memory, so that nothing is to be done when it is not wanted any more.
        for key in [key for key, held in self._held.items() if held.state == "failed" and key not in self._target]:
            del self._held[key]
        return True

    def next_fence(self) -> Fence | None:
        """The next short thing to do: releases first, for the room they make."""
        for key, held in self._held.items():
            if held.state == "ready" and key not in self._target:
                return Release(region_id=key[0], index=key[1])
        for key, wanted in self._target.items():
            held_here = self._held.get(key)
            if held_here is None or held_here.state != "ready":
                continue
            if self._floors.get(wanted.region_id, Generation(0)) < wanted.generation:
                return RaiseGeneration(region_id=wanted.region_id, generation=wanted.generation)
        return None

    def next_reservation(self) -> Reserve | None:
        """The next extent that is wanted and neither held nor known to have failed."""
        for key, wanted in self._target.items():
            if key not in self._held and key not in self._under_way:
                return Reserve(extent=wanted)
        return None

    def begin(self, reservation: Reserve) -> None:
        """A reservation is under way; it ends with `reserved` or `refused`."""
        self._under_way.add((reservation.extent.region_id, reservation.extent.index))

    def raised(self, done: RaiseGeneration) -> None:
        """A fence stands."""
        self._floors[done.region_id] = max(done.generation, self._floors.get(done.region_id, Generation(0)))

    def released(self, done: Release) -> None:
        """An extent's memory was given back."""
        self._held.pop((done.region_id, done.index), None)
        if not any(region_id == done.region_id for region_id, _ in self._held):
            self._floors.pop(done.region_id, None)

    def reserved(self, done: Reserve) -> None:
        """An extent is backed. The target may have moved on meanwhile; the next fence sees to that."""
        extent = done.extent
        self._under_way.discard((extent.region_id, extent.index))
        self._held[extent.region_id, extent.index] = HeldState(state="ready", size_bytes=extent.size_bytes)
        # The lender may have learned an older floor with this extent than it had: fence again rather than assume.
        self._floors[extent.region_id] = min(extent.generation, self._floors.get(extent.region_id, extent.generation))

    def refused(self, tried: Reserve, error: str) -> None:
        """An extent could not be had. It is reported until the coordinator drops it, and not tried again."""
        extent = tried.extent
        self._under_way.discard((extent.region_id, extent.index))
        if (extent.region_id, extent.index) in self._target:
            self._held[extent.region_id, extent.index] = HeldState(
                state="failed", size_bytes=extent.size_bytes, error=error
            )

    def states(self) -> list[tuple[ExtentKey, HeldState]]:
        """Every extent that is ready or failed, in order, for the next beat."""
        return sorted(self._held.items())

    def regions_held(self) -> dict[str, int]:
        """The regions that have extents here, by name, and how many: what they lose when this node goes."""
        counts: dict[str, int] = {}
        for key, wanted in self._target.items():
            if key in self._held and self._held[key].state == "ready":
                counts[wanted.region] = counts.get(wanted.region, 0) + 1
        return counts
