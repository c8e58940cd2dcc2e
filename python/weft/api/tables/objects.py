"""The routes of objects and their copies: the storage seed's four, and what Weft says beyond them."""

from typing import Final

from weft.api.bodies import object as objects
from weft.api.bodies import storage
from weft.api.errors import Family
from weft.api.route import WRITE_ERRORS, Route
from weft.model import errors

OBJECTS: Final[tuple[Route, ...]] = (
    Route(
        operation="register_object",
        method="POST",
        path="/object/register",
        summary="Put an object into the books. The first registration of a hash wins.",
        family=Family.STORAGE,
        body=objects.ObjectBody,
        reply=storage.Done,
        errors=(errors.ObjectBeingDeleted, *WRITE_ERRORS),
    ),
    Route(
        operation="delete_object",
        method="DELETE",
        path="/object/{hash}",
        summary="Let there be no such object any more; its holders hear in their next beats to let go of it.",
        family=Family.STORAGE,
        reply=storage.Done,
        errors=(errors.ObjectNotFound, *WRITE_ERRORS),
    ),
    Route(
        operation="show_object",
        method="GET",
        path="/object/{hash}",
        summary="An object, and who holds it.",
        family=Family.STORAGE,
        reply=objects.ObjectInfo,
        errors=(errors.ObjectNotFound,),
    ),
    Route(
        operation="mark_replica_missing",
        method="POST",
        path="/replica/mark_missing",
        summary="Say that a node does not hold a copy. One that is not in the books is missing already.",
        family=Family.STORAGE,
        body=objects.ReplicaBody,
        reply=storage.Done,
        errors=WRITE_ERRORS,
    ),
    Route(
        operation="mark_replica_healed",
        method="POST",
        path="/replica/mark_healed",
        summary="Say that a node holds a copy.",
        family=Family.STORAGE,
        body=objects.ReplicaBody,
        reply=storage.Done,
        errors=(errors.ObjectNotFound, errors.NodeNotFound, *WRITE_ERRORS),
    ),
    Route(
        operation="list_objects",
        method="GET",
        path="/objects",
        summary="Objects in order of hash: all, those with too few copies, or those with none.",
        family=Family.WEFT,
        query=objects.ObjectsQuery,
        reply=objects.ObjectList,
    ),
    Route(
        operation="show_object_targets",
        method="GET",
        path="/objects/{hash}/targets",
        summary="The nodes an object should be put on.",
        family=Family.WEFT,
        query=objects.TargetsQuery,
        reply=objects.ObjectTargets,
        errors=(errors.ObjectNotFound,),
    ),
)
