"""The route table. The app, the OpenAPI document, the clients and the contract tests are all derived from it.

A route names what may be sent, what comes back and what can go wrong. `operation` is the name a service answers to.
"""

from typing import Final

import msgspec

from weft.api.bodies import beat, cluster, region
from weft.api.errors import Family
from weft.model import errors
from weft.model.errors import WeftError


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. `body`, `query` and `reply` are types; a reply of None is not JSON and is described by `summary`."""

    operation: str
    method: str
    path: str
    summary: str
    family: Family
    status: int = 200
    body: type | None = None
    query: type | None = None
    reply: type | None = None
    errors: tuple[type[WeftError], ...] = ()
    open_to_all: bool = False


_BODY: Final = (errors.MalformedJson, errors.InvalidField, errors.BodyTooLarge)
_WRITE: Final = (errors.Unavailable,)
_NODE: Final = (errors.ClusterNotFound, errors.NodeNotFound)
_REGION: Final = (errors.ClusterNotFound, errors.RegionNotFound)

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        operation="found_cluster",
        method="POST",
        path="/cluster",
        summary="Found the cluster with the nodes it begins with.",
        family=Family.CLUSTER,
        status=201,
        body=cluster.ClusterBody,
        reply=cluster.ClusterCreated,
        errors=(errors.ClusterExists, errors.NodeExists, *_BODY, *_WRITE),
    ),
    Route(
        operation="show_cluster",
        method="GET",
        path="/cluster",
        summary="The cluster, its totals and its members.",
        family=Family.CLUSTER,
        reply=cluster.ClusterInfo,
        errors=(errors.ClusterNotFound,),
    ),
    Route(
        operation="destroy_cluster",
        method="DELETE",
        path="/cluster",
        summary="Forget the cluster and everything in it.",
        family=Family.CLUSTER,
        reply=cluster.ClusterDestroyedBody,
        errors=(errors.ClusterNotFound, *_WRITE),
    ),
    Route(
        operation="register_node",
        method="POST",
        path="/nodes",
        summary="Join the cluster.",
        family=Family.CLUSTER,
        body=cluster.NodeBody,
        reply=cluster.NodeJoined,
        errors=(errors.ClusterNotFound, errors.NodeExists, *_BODY, *_WRITE),
    ),
    Route(
        operation="remove_node",
        method="DELETE",
        path="/nodes/{node_id}",
        summary="Leave the cluster. The node's endpoint goes with it, and what it held is lost.",
        family=Family.CLUSTER,
        reply=cluster.NodeRemovedBody,
        errors=(*_NODE, errors.InvalidField, *_WRITE),
    ),
    Route(
        operation="register_endpoint",
        method="POST",
        path="/nodes/{node_id}/endpoint",
        summary="Say how a node is reached: replaces the half it names, and prefers it.",
        family=Family.CLUSTER,
        status=201,
        body=cluster.EndpointBody,
        reply=cluster.EndpointRegisteredBody,
        errors=(*_NODE, *_BODY, *_WRITE),
    ),
    Route(
        operation="show_endpoint",
        method="GET",
        path="/nodes/{node_id}/endpoint",
        summary="How a node is reached.",
        family=Family.CLUSTER,
        reply=cluster.EndpointInfo,
        errors=(*_NODE, errors.EndpointNotFound, errors.InvalidField),
    ),
    Route(
        operation="list_endpoints",
        method="GET",
        path="/endpoints",
        summary="How every node is reached.",
        family=Family.CLUSTER,
        reply=cluster.EndpointList,
        errors=(errors.ClusterNotFound,),
    ),
    Route(
        operation="show_metrics",
        method="GET",
        path="/metrics",
        summary="The cluster in numbers; the coordinator's own, as Prometheus text, when Accept names it.",
        family=Family.CLUSTER,
        reply=cluster.MetricsBody,
        errors=(errors.ClusterNotFound,),
    ),
    Route(
        operation="show_page",
        method="GET",
        path="/pages/{gpa}",
        summary="Where a page lives, by the layout of the region it lies in.",
        family=Family.CLUSTER,
        query=cluster.PageQuery,
        reply=cluster.PageBody,
        errors=(errors.ClusterNotFound, errors.RegionNotFound, errors.BadAddress),
    ),
    Route(
        operation="show_health",
        method="GET",
        path="/health",
        summary="Whether the coordinator serves.",
        family=Family.CLUSTER,
        reply=cluster.HealthBody,
        open_to_all=True,
    ),
    Route(
        operation="beat",
        method="POST",
        path="/nodes/{node_id}/beat",
        summary="Say that a node lives; answered at once when it should hold something else, else after wait_ms.",
        family=Family.WEFT,
        body=beat.BeatBody,
        reply=beat.BeatReply,
        errors=(*_NODE, errors.IncarnationRetired, *_BODY, *_WRITE),
    ),
    Route(
        operation="plan_region",
        method="POST",
        path="/regions",
        summary="Plan a region over the memory that is lent.",
        family=Family.WEFT,
        status=201,
        body=region.RegionBody,
        reply=region.RegionInfo,
        errors=(errors.ClusterNotFound, errors.RegionExists, errors.CapacityExceeded, *_BODY, *_WRITE),
    ),
    Route(
        operation="list_regions",
        method="GET",
        path="/regions",
        summary="Every region, and how much memory is lent and free.",
        family=Family.WEFT,
        reply=region.RegionList,
        errors=(errors.ClusterNotFound,),
    ),
    Route(
        operation="show_region",
        method="GET",
        path="/regions/{name}",
        summary="A region; with wait_ms, as soon as it is no longer planned.",
        family=Family.WEFT,
        query=region.WaitQuery,
        reply=region.RegionInfo,
        errors=(*_REGION, errors.InvalidField),
    ),
    Route(
        operation="delete_region",
        method="DELETE",
        path="/regions/{name}",
        summary="Delete a region; it is gone once every lender that lives has released it.",
        family=Family.WEFT,
        query=region.ForceQuery,
        reply=region.RegionDeleting,
        errors=(*_REGION, errors.RegionInUse, errors.InvalidField, *_WRITE),
    ),
    Route(
        operation="seal_region",
        method="POST",
        path="/regions/{name}/seal",
        summary="Let nobody write to a region any more, so that any number may read it.",
        family=Family.WEFT,
        body=region.EmptyBody,
        reply=region.RegionInfo,
        errors=(*_REGION, errors.RegionNotReady, errors.RegionInUse, *_BODY, *_WRITE),
    ),
    Route(
        operation="open_attachment",
        method="POST",
        path="/regions/{name}/attachments",
        summary="Map a region: answered with a grant once every lender knows the new generation.",
        family=Family.WEFT,
        status=201,
        body=region.AttachmentBody,
        reply=region.AttachmentOpenedBody,
        errors=(
            *_REGION,
            errors.RegionNotReady,
            errors.RegionSealed,
            errors.RegionNotSealed,
            errors.AttachmentConflict,
            errors.NotYet,
            errors.LenderSilent,
            *_BODY,
            *_WRITE,
        ),
    ),
    Route(
        operation="renew_attachment",
        method="POST",
        path="/regions/{name}/attachments/{attachment_id}/renew",
        summary="Keep an attachment for another lease.",
        family=Family.WEFT,
        body=region.EmptyBody,
        reply=region.GrantRenewed,
        errors=(*_REGION, errors.AttachmentNotFound, *_BODY),
    ),
    Route(
        operation="close_attachment",
        method="DELETE",
        path="/regions/{name}/attachments/{attachment_id}",
        summary="Unmap a region.",
        family=Family.WEFT,
        reply=region.AttachmentDetached,
        errors=(*_REGION, errors.AttachmentNotFound, errors.InvalidField, *_WRITE),
    ),
)
