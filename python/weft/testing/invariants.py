"""What may never happen, as functions that look at the world after every step.

Each `invariant_*` takes the `Judge` and raises `BrokenError` with what it saw. The judge follows the log by itself,
from the bytes on the disk and from nothing, as an auditor would who trusts neither the coordinator nor its memory. It
reads only what was appended since it last looked, so that looking after every step costs little.
"""

from collections.abc import Callable
from typing import Final

from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.ledger.envelope import Kind, wrap
from weft.ledger.layer import commit_to
from weft.model.attachment import Mode
from weft.model.batch import Batch, unseal
from weft.model.ids import Position
from weft.model.policy import STRIPE_BYTES
from weft.testing.cluster import Cluster
from weft.testing.watcher import Seen, Watcher


class BrokenError(AssertionError):
    """Something that may never happen has."""


class Judge:
    """Follows the log from outside, and keeps what must not be taken back."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.state = State()
        self.batches: list[Batch] = []
        self.causes: dict[str, Position] = {}
        self.grown: dict[tuple[str, str], int] = {}
        self.watchers: list[Watcher] = []
        self.digests: list[bytes] = []
        self.digest_checked_at: dict[str, int] = {}
        self.looks = 0

    def look(self) -> None:
        """Follow the log, then hold everything against the world. Raises `BrokenError`."""
        self.looks += 1
        fresh = self._follow()
        for invariant in INVARIANTS:
            invariant(self)
        for batch in fresh:
            self.cluster.trace.note(f"batch {batch.position} with {len(batch.entries)} events")

    def grows(self, kind: str, name: str, value: int) -> None:
        """Hold a number to never being smaller than it was."""
        before = self.grown.get((kind, name), value)
        if value < before:
            raise BrokenError(f"{kind} of {name} fell from {before} to {value}")
        self.grown[kind, name] = value

    def commitment_of(self, position: Position) -> str:
        """What the batch at a position is called where it is kept beside the journal."""
        places = self.cluster.places
        assert places is not None, "there is nowhere else it could be kept"
        batch, body = self.batches[position - 1], self.cluster.hosts[0].rows()[position - 1].body
        return commit_to(wrap(places.key, batch.cluster_id, Kind.BATCH, position, body))

    def _follow(self) -> list[Batch]:
        rows = self.cluster.hosts[0].rows()
        known = len(self.batches)
        if len(rows) < known:
            raise BrokenError(f"{known - len(rows)} batches that were synced are gone from the journal")
        for row in rows[known:]:
            sealed = unseal(row.body, Position(row.position))
            self.state.merge(follow(self.state, sealed))
            self.batches.append(sealed.batch)
            self.digests.append(sealed.digest)
            for cause in {entry.cause for entry in sealed.batch.entries}:
                if "~" not in cause:
                    continue
                first = self.causes.setdefault(cause.partition("~")[0], sealed.batch.position)
                if first != sealed.batch.position:
                    raise BrokenError(f"request {cause} was carried out at {first} and at {sealed.batch.position}")
        return self.batches[known:]


def invariant_replay_gives_what_living_through_it_gave(judge: Judge) -> None:
    """At the same position every coordinator's state and the follower's have the same digest."""
    for host in judge.cluster.hosts:
        state = host.state
        if state is None or state.marks.position != judge.state.marks.position:
            continue
        if state.marks.position == judge.digest_checked_at.get(host.place) and judge.looks % 16:
            continue
        judge.digest_checked_at[host.place] = state.marks.position
        if state_digest(state) != state_digest(judge.state):
            raise BrokenError(f"the state of {host.place} at {state.marks.position} is not what its log implies")


def invariant_every_coordinator_has_followed_the_one_log(judge: Judge) -> None:
    """Wherever a coordinator stands, it came there by the batches that are in the journal, in their order."""
    for host in judge.cluster.hosts:
        state = host.state
        if state is None or not 0 < state.marks.position <= len(judge.digests):
            continue
        if state.marks.log_digest != judge.digests[state.marks.position - 1]:
            raise BrokenError(f"{host.place} came to {state.marks.position} by another log than the journal's")


def invariant_no_coordinator_is_ahead_of_the_disk(judge: Judge) -> None:
    """Nobody reads what is not synced, and nothing was promised beyond it."""
    for host in judge.cluster.hosts:
        state = host.state
        if state is not None and state.marks.position > len(judge.batches):
            raise BrokenError(f"readers see {state.marks.position} and the disk has {len(judge.batches)}")
    promised = judge.cluster.observer.position_promised
    if promised > len(judge.batches):
        raise BrokenError(f"an answer named position {promised} and the disk has {len(judge.batches)}")


def invariant_what_was_acknowledged_is_in_the_log(judge: Judge) -> None:
    """A success that had to leave an event left one, it is still there, and a layer has it where there are layers."""
    promised, places = judge.cluster.observer.causes_promised, judge.cluster.places
    for request_id, what in promised.items():
        position = judge.causes.get(request_id)
        if position is None:
            raise BrokenError(f"{what} was acknowledged under {request_id} and is not in the log")
        if places is not None and not places.keeps(judge.commitment_of(position)):
            raise BrokenError(f"{what} was acknowledged as available at {position}, and no layer has it")
    promised.clear()


def invariant_nothing_was_promised_and_broken(judge: Judge) -> None:
    """What the observer saw at the moment of an answer."""
    if breaches := judge.cluster.observer.breaches:
        raise BrokenError(breaches[0])


def invariant_nobody_met_a_bug(judge: Judge) -> None:
    """No shell logged an error, ended by one, or left one unlooked at."""
    cluster = judge.cluster
    failures = [failure for machine in cluster.machines.values() for failure in machine.failures]
    errors = [error for host in cluster.hosts for error in host.errors]
    found = cluster.places.errors() if cluster.places is not None else []
    for met in (errors, found, failures, cluster.loop.mishaps):
        if met:
            raise BrokenError(met[0])


def invariant_watchers_see_the_log(judge: Judge) -> None:
    """What a watcher is handed is the log: every event once, in order, whole, and nothing the disk does not have."""
    for watcher in judge.watchers:
        if watcher.breaches:
            raise BrokenError(watcher.breaches[0])
        while watcher.fresh:
            seen = watcher.fresh.popleft()
            if seen.position > len(judge.batches):
                raise BrokenError(f"{watcher.name} saw {seen.position} and the disk has {len(judge.batches)}")
            batch = judge.batches[seen.position - 1]
            entry = batch.entries[seen.index]
            is_last = seen.index == len(batch.entries) - 1
            kind = type(entry.event).__name__
            due = Seen(batch.position, seen.index, is_last, entry.sequence, batch.at_ms, entry.cause, kind)
            if seen != due:
                raise BrokenError(f"{watcher.name} was handed {seen} and the log has {due}")


def invariant_slots_are_promised_once(judge: Judge) -> None:
    """What of a pool is promised since its node spoke is no more than was free then."""
    coordinator = judge.cluster.host.coordinator
    if coordinator is None:
        return
    for key, promised in coordinator._jobs.promised.items():
        pool = coordinator._observations.pool(key)
        if promised.slots < 1 or pool is None or promised.slots > pool.slots_free:
            free = "gone" if pool is None else f"described with {pool.slots_free} free"
            raise BrokenError(f"{promised.slots} slots of {key} are promised, and the pool is {free}")


def invariant_engines_are_bound_while_they_are_ready(judge: Judge) -> None:
    """Every binding is of a pool that its node calls ready, at the address it named."""
    coordinator = judge.cluster.host.coordinator
    if coordinator is None:
        return
    for node_id in coordinator.bindings.owners:
        for binding in coordinator.bindings.of(node_id):
            seat = (binding.pool_id, binding.replica_id)
            pool = coordinator._observations.pool((node_id, *seat)) if node_id is not None else None
            if pool is None or not pool.ready or pool.url != binding.url:
                raise BrokenError(f"{binding.pool_id} of {node_id} is bound to {binding.url} and described as {pool}")


def invariant_one_writer_a_region(judge: Judge) -> None:
    """An exclusive attachment is alone, and a sealed region has none."""
    state = judge.state
    for region in state.regions.values():
        modes = [
            attachment.mode
            for attachment_id in region.attachment_ids
            if (attachment := state.attachments.get(attachment_id)) is not None
        ]
        if len(modes) != len(region.attachment_ids):
            raise BrokenError(f"region {region.name} names an attachment that is not there")
        if Mode.EXCLUSIVE in modes and (len(modes) > 1 or region.sealed):
            raise BrokenError(f"region {region.name} is attached by {len(modes)}, one of them exclusive")
    listed = sum(len(region.attachment_ids) for region in state.regions.values())
    if listed != len(state.attachments):
        raise BrokenError(f"{len(state.attachments)} attachments are open and regions name {listed}")


def invariant_generations_only_grow(judge: Judge) -> None:
    """Of a region: its generation and its floor. Of a node: its target. Of the log: the term."""
    state = judge.state
    for region in state.regions.values():
        judge.grows("the generation", region.region_id, region.generation)
        judge.grows("the floor", region.region_id, region.floor)
        if region.floor > region.generation + 1:
            raise BrokenError(f"region {region.name} refuses generation {region.floor} before it was ever given")
    for node in state.nodes.values():
        judge.grows("the target", node.node_id, node.generation)
    if state.ledger is not None:
        judge.grows("the term", "the log", state.ledger.term)


def invariant_floor_follows_the_oldest_attachment(judge: Judge) -> None:
    """Lenders refuse exactly what is older than everybody who may use the region."""
    state = judge.state
    for region in state.regions.values():
        open_generations = [
            attachment.generation
            for attachment_id in region.attachment_ids
            if (attachment := state.attachments.get(attachment_id)) is not None
        ]
        if open_generations and min(open_generations) < region.floor:
            raise BrokenError(f"region {region.name} shuts out an attachment that is open")


def invariant_room_is_counted_right(judge: Judge) -> None:
    """What a node is charged with is what the regions it holds come to, and never more than nothing or less."""
    state = judge.state
    charged: dict[str, int] = {}
    for node_id, region_ids in state.holdings.items():
        for region_id in region_ids:
            region = state.regions.get(region_id)
            if region is None:
                raise BrokenError(f"{node_id} holds region {region_id}, which is not there")
            charged[node_id] = charged.get(node_id, 0) + sum(
                extent.size_bytes
                for extent in region.layout.extents_of(node_id)
                if extent.index not in region.lost_extents
            )
    for node in state.nodes.values():
        if node.reserved_bytes != charged.get(node.node_id, 0) or node.free_bytes < 0:
            raise BrokenError(
                f"{node.node_id} is charged with {node.reserved_bytes} bytes and holds {charged.get(node.node_id, 0)}"
            )


def invariant_layouts_do_not_overlap(judge: Judge) -> None:
    """Every stripe of a region has one place, every place one index, and no extent is empty."""
    for region in judge.state.regions.values():
        if ("layout", region.region_id) in judge.grown:
            continue
        judge.grown["layout", region.region_id] = 1
        next_stripe = 0
        for band in region.layout.bands:
            if band.first_stripe != next_stripe or sum(extent.stripes for extent in band.extents) != band.stripes:
                raise BrokenError(f"region {region.name} has a band that does not follow from the one before")
            if any(extent.stripes < 1 for extent in band.extents):
                raise BrokenError(f"region {region.name} has an empty extent")
            if len({extent.home.node_id for extent in band.extents}) != len(band.extents):
                raise BrokenError(f"region {region.name} has one node twice in a band")
            next_stripe += band.stripes
        indices = [extent.index for extent in region.layout.extents()]
        if next_stripe * STRIPE_BYTES != region.reserved_bytes or sorted(set(indices)) != indices:
            raise BrokenError(f"region {region.name} has {next_stripe} stripes in extents {indices}")


def invariant_lenders_keep_their_word(judge: Judge) -> None:
    """A gate never falls while an extent is there, and memory never exceeds what was lent."""
    for machine in judge.cluster.machines.values():
        memory = machine.memory
        if memory is None:
            continue
        if memory.held_bytes > machine.lend_bytes:
            raise BrokenError(f"{machine.name} holds {memory.held_bytes} bytes and lends {machine.lend_bytes}")
        for region_id, generation in memory.gates.items():
            judge.grows("the gate", f"{region_id} on {machine.name}/{machine.incarnation}", generation)


def invariant_lost_bytes_stay_lost(judge: Judge) -> None:
    """An extent that was lost is never held again: a copy belongs to the life it was placed in."""
    for region in judge.state.regions.values():
        judge.grows("the lost extents", region.region_id, len(region.lost_extents))
        for extent in region.layout.extents():
            node = judge.state.nodes.get(extent.home.node_id)
            if extent.index not in region.lost_extents and (
                node is None or node.incarnation != extent.home.incarnation
            ):
                raise BrokenError(f"extent {extent.index} of {region.name} counts as held by a life that has ended")


INVARIANTS: Final[tuple[Callable[[Judge], None], ...]] = tuple(
    value for name, value in sorted(globals().items()) if name.startswith("invariant_")
)
