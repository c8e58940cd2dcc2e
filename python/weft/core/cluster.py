"""Founding and destroying the cluster, and the two events by which a log describes itself."""

from weft.core.moment import Moment
from weft.core.node import describe_joining
from weft.core.state import Draft, Ledger, View
from weft.model.cluster import Cluster
from weft.model.commands import DestroyCluster, FoundCluster, OpenLedger, OpenTerm
from weft.model.errors import ClusterExists, ClusterNotFound, NodeExists
from weft.model.events import ClusterDestroyed, ClusterFounded, Event, LedgerOpened, TermOpened
from weft.model.ids import Generation, NodeId, Term


def existing_cluster(view: View) -> Cluster:
    """The cluster, or `ClusterNotFound`: every other noun lives inside one."""
    if view.cluster is None:
        raise ClusterNotFound("no cluster has been founded; POST /cluster founds one")
    return view.cluster


def decide_open_ledger(view: View, command: OpenLedger, moment: Moment) -> tuple[Event, ...]:
    """An empty log begins with whose it is. One that has begun stays as it is."""
    if view.ledger is not None:
        return ()
    return (LedgerOpened(cluster_id=moment.cluster_id(), policy=command.policy),)


def decide_open_term(view: View, command: OpenTerm, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """The next term is the writer's that appends this."""
    term = view.ledger.term if view.ledger is not None else 0
    return (TermOpened(term=Term(term + 1), writer=command.writer, address=command.address),)


def decide_found(view: View, command: FoundCluster, moment: Moment) -> tuple[Event, ...]:
    """A coordinator keeps one cluster, and no node twice in it."""
    if view.cluster is not None:
        raise ClusterExists(f"a cluster already exists: {view.cluster.name!r}", cluster_name=view.cluster.name)
    events: list[Event] = [ClusterFounded(name=command.name, at_ms=moment.now_ms)]
    seen: set[NodeId] = set()
    for joining in command.nodes:
        node_id = joining.node.node_id
        if node_id in seen:
            raise NodeExists(f"node {node_id} is named twice", node_id=node_id)
        seen.add(node_id)
        events.extend(describe_joining(joining, moment))
    return tuple(events)


def decide_destroy(view: View, command: DestroyCluster, moment: Moment) -> tuple[Event, ...]:  # noqa: ARG001
    """Everything goes with the cluster, attachments included: the seed's door asks nobody."""
    return (ClusterDestroyed(name=existing_cluster(view).name),)


def apply_ledger_opened(draft: Draft, event: LedgerOpened) -> None:
    """The log has an owner."""
    draft.ledger = Ledger(cluster_id=event.cluster_id, policy=event.policy, term=Term(0), writer="")


def apply_term_opened(draft: Draft, event: TermOpened) -> None:
    """The log has a writer."""
    ledger = draft.ledger
    assert ledger is not None, "a term is opened in a ledger"
    draft.ledger = Ledger(
        cluster_id=ledger.cluster_id,
        policy=ledger.policy,
        term=event.term,
        writer=event.writer,
        address=event.address,
    )


def apply_cluster_founded(draft: Draft, event: ClusterFounded) -> None:
    """The cluster has a name."""
    draft.cluster = Cluster(name=event.name, founded_at_ms=event.at_ms)


def apply_cluster_destroyed(draft: Draft, event: ClusterDestroyed) -> None:  # noqa: ARG001
    """Nothing is left but the log."""
    draft.cluster = None
    draft.scheduler = None
    draft.nodes.clear()
    draft.endpoints.clear()
    draft.regions.clear()
    draft.region_ids.clear()
    draft.attachments.clear()
    draft.objects.clear()
    draft.holdings.clear()
    draft.marks = draft.marks._replace(endpoints_generation=Generation(draft.marks.sequence))
