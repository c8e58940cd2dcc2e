"""One way in for commands and one for events.

`decide` checks a command against a view and gives the events it becomes, or raises `Rejected`; it changes nothing.
`apply` takes one event into a draft and cannot fail, because what could fail was refused by `decide`. Both are tables,
and a test holds every command and every event to have its row.
"""

from collections.abc import Callable
from typing import Any, Final

from weft.core import attachment, cluster, endpoint, node, region, scheduler
from weft.core import object as objects
from weft.core.moment import Moment
from weft.core.state import Draft, Marks, View
from weft.model import commands, events
from weft.model.commands import Command
from weft.model.events import Event

DECISIONS: Final[dict[type, Callable[[View, Any, Moment], tuple[Event, ...]]]] = {
    commands.OpenLedger: cluster.decide_open_ledger,
    commands.OpenTerm: cluster.decide_open_term,
    commands.FoundCluster: cluster.decide_found,
    commands.DestroyCluster: cluster.decide_destroy,
    commands.RegisterNode: node.decide_register_node,
    commands.DescribeNode: node.decide_describe_node,
    commands.DrainNode: node.decide_drain_node,
    commands.ResumeNode: node.decide_resume_node,
    commands.PurgeNode: node.decide_purge_node,
    commands.RemoveNode: node.decide_remove_node,
    commands.AdmitBeat: node.decide_admit_beat,
    commands.GiveUpNode: node.decide_give_up_node,
    commands.RegisterEndpoint: endpoint.decide_register_endpoint,
    commands.PlanRegion: region.decide_plan_region,
    commands.ConfirmRegion: region.decide_confirm_region,
    commands.FailRegion: region.decide_fail_region,
    commands.LoseExtents: region.decide_lose_extents,
    commands.SealRegion: region.decide_seal_region,
    commands.DeleteRegion: region.decide_delete_region,
    commands.FinishRegion: region.decide_finish_region,
    commands.OpenAttachment: attachment.decide_open_attachment,
    commands.CloseAttachment: attachment.decide_close_attachment,
    commands.ConfigureScheduler: scheduler.decide_configure_scheduler,
    commands.RegisterObject: objects.decide_register_object,
    commands.DeleteObject: objects.decide_delete_object,
    commands.MarkMissing: objects.decide_mark_missing,
    commands.MarkHealed: objects.decide_mark_healed,
    commands.ReportReplicas: objects.decide_report_replicas,
}

LISTENS: Final = frozenset({commands.PlanRegion, commands.DeleteRegion, commands.FinishRegion})
"""The commands whose decision depends on who is silent. For the others a shell need not find out."""

APPLICATIONS: Final[dict[type, Callable[[Draft, Any], None]]] = {
    events.LedgerOpened: cluster.apply_ledger_opened,
    events.TermOpened: cluster.apply_term_opened,
    events.ClusterFounded: cluster.apply_cluster_founded,
    events.ClusterDestroyed: cluster.apply_cluster_destroyed,
    events.NodeRegistered: node.apply_node_registered,
    events.NodeDescribed: node.apply_node_described,
    events.NodeAppeared: node.apply_node_appeared,
    events.NodeDrained: node.apply_node_drained,
    events.NodeResumed: node.apply_node_resumed,
    events.NodeRemoved: node.apply_node_removed,
    events.NodeIncarnated: node.apply_node_incarnated,
    events.NodeLost: node.apply_node_lost,
    events.NodeReturned: node.apply_node_returned,
    events.LendingChanged: node.apply_lending_changed,
    events.EndpointRegistered: endpoint.apply_endpoint_registered,
    events.RegionPlanned: region.apply_region_planned,
    events.RegionReady: region.apply_region_ready,
    events.RegionFailed: region.apply_region_failed,
    events.ExtentsLost: region.apply_extents_lost,
    events.RegionSealed: region.apply_region_sealed,
    events.RegionDeletionBegun: region.apply_region_deletion_begun,
    events.RegionRemoved: region.apply_region_removed,
    events.AttachmentOpened: attachment.apply_attachment_opened,
    events.AttachmentClosed: attachment.apply_attachment_closed,
    events.SchedulerConfigured: scheduler.apply_scheduler_configured,
    events.ObjectRegistered: objects.apply_object_registered,
    events.ObjectDeleted: objects.apply_object_deleted,
    events.ReplicaAdded: objects.apply_replica_added,
    events.ReplicaRemoved: objects.apply_replica_removed,
}


def decide(view: View, command: Command, moment: Moment) -> tuple[Event, ...]:
    """The events a command becomes. None means that it was already so. Raises `Rejected` when it cannot be."""
    return DECISIONS[type(command)](view, command, moment)


def apply(draft: Draft, event: Event) -> None:
    """Take an event into a draft. Its place in the count of all events is settled before its rule runs."""
    marks = draft.marks
    draft.marks = Marks(marks.position, marks.log_digest, marks.sequence + 1, marks.endpoints_generation)
    APPLICATIONS[type(event)](draft, event)
