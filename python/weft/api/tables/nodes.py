"""Nodes through the other two doors: those that run engines, and those that store. And what operators do to nodes."""

from typing import Final

from weft.api.bodies import pools, region, storage
from weft.api.errors import Family
from weft.api.route import BODY_ERRORS, NODE_ERRORS, WRITE_ERRORS, Route
from weft.model import errors

_CLOUD: Final = (errors.CloudProfileOff, errors.UnsupportedMedia)

NODES: Final[tuple[Route, ...]] = (
    Route(
        operation="register_pool_node",
        method="POST",
        path="/v2/nodes/register",
        summary="A node that runs engines registers, or says anew what it is. It promises to beat.",
        family=Family.POOLS,
        body=pools.RegistrationBody,
        reply=pools.RegistrationReply,
        errors=(*_CLOUD, *BODY_ERRORS, *WRITE_ERRORS),
    ),
    Route(
        operation="heartbeat",
        method="POST",
        path="/v2/nodes/{node_id}/heartbeat",
        summary="A node lives, and its pools are as they are.",
        family=Family.POOLS,
        body=pools.HeartbeatBody,
        reply=pools.HeartbeatReply,
        errors=(*_CLOUD, *NODE_ERRORS, *BODY_ERRORS, *WRITE_ERRORS),
    ),
    Route(
        operation="deregister_pool_node",
        method="DELETE",
        path="/v2/nodes/{node_id}",
        summary="A node leaves, and everything of it goes.",
        family=Family.POOLS,
        status=204,
        errors=(errors.CloudProfileOff, *NODE_ERRORS, errors.InvalidField, *WRITE_ERRORS),
    ),
    Route(
        operation="list_pool_nodes",
        method="GET",
        path="/v2/nodes",
        summary="Every node with its status, the age of its last beat, its pools and what is bound to them.",
        family=Family.POOLS,
        query=pools.StatusQuery,
        reply=pools.PoolNodeList,
        errors=(errors.CloudProfileOff, errors.InvalidField),
    ),
    Route(
        operation="list_engines",
        method="GET",
        path="/engines",
        summary="Every engine that is ready and has an adapter bound to it.",
        family=Family.WEFT,
        reply=pools.EngineList,
    ),
    Route(
        operation="register_storage_node",
        method="POST",
        path="/register",
        summary="A node that stores registers, or says anew what it is.",
        family=Family.STORAGE,
        body=storage.StorageNodeBody,
        reply=storage.Done,
        errors=(*BODY_ERRORS, *WRITE_ERRORS),
    ),
    Route(
        operation="list_storage_nodes",
        method="GET",
        path="/nodes",
        summary="Every node, in order of id.",
        family=Family.STORAGE,
        reply=list[storage.StorageNodeInfo],
    ),
    Route(
        operation="show_storage_node",
        method="GET",
        path="/node/{node_id}",
        summary="One node.",
        family=Family.STORAGE,
        reply=storage.StorageNodeInfo,
        errors=(errors.NodeNotFound, errors.InvalidField),
    ),
    Route(
        operation="show_node_stats",
        method="GET",
        path="/node/{node_id}/stats",
        summary="How busy a node last said it was; found is false when it never did.",
        family=Family.STORAGE,
        reply=storage.StatsInfo,
        errors=(errors.InvalidField,),
    ),
    Route(
        operation="take_node_stats",
        method="POST",
        path="/node/{node_id}/stats",
        summary="A node says how busy it is.",
        family=Family.STORAGE,
        body=storage.StatsBody,
        reply=storage.StatsTaken,
        errors=(errors.NodeNotFound, *BODY_ERRORS),
    ),
    Route(
        operation="drain_node",
        method="POST",
        path="/nodes/{node_id}/drain",
        summary="Give a node nothing new; what it has it keeps. Stays so when the node falls silent and comes back.",
        family=Family.WEFT,
        body=region.EmptyBody,
        reply=storage.NodeStanding,
        errors=(*NODE_ERRORS, *BODY_ERRORS, *WRITE_ERRORS),
    ),
    Route(
        operation="resume_node",
        method="POST",
        path="/nodes/{node_id}/resume",
        summary="Give a drained node work again.",
        family=Family.WEFT,
        body=region.EmptyBody,
        reply=storage.NodeStanding,
        errors=(*NODE_ERRORS, *BODY_ERRORS, *WRITE_ERRORS),
    ),
)
