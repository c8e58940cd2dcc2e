"""What happens to objects and to the disks that keep them."""

from weft.model.errors.tree import Conflict, Failed, NotFound


class ObjectNotFound(NotFound):
    """No object of that hash was registered, or this node holds no copy of it. Facts: hash."""

    code = "OBJECT_NOT_FOUND"


class ObjectConflict(Conflict):
    """An object of that hash is registered with another size. Facts: hash, size_bytes, registered_bytes."""

    code = "OBJECT_CONFLICT"


class ObjectBeingDeleted(Conflict):
    """Nodes have yet to let go of an object of that hash, which was deleted. Facts: hash, nodes."""

    code = "OBJECT_BEING_DELETED"
    temporary = True


class ObjectUnavailable(Failed):
    """No copy of the object could be had, and why from each node that was asked. Facts: hash, reasons."""

    code = "OBJECT_UNAVAILABLE"
    temporary = True


class ObjectNotStored(Failed):
    """Too few nodes stored the object for it to count as kept. Facts: hash, nodes, reasons."""

    code = "OBJECT_NOT_STORED"
    temporary = True


class ObjectCorrupt(Failed):
    """The bytes are not those the object's name stands for. Facts: hash."""

    code = "OBJECT_CORRUPT"


class StoreFull(Failed):
    """The disk, or the part of it that objects may have, has no room left. Facts: path, wanted_bytes, free_bytes."""

    code = "STORE_FULL"


class StoreFailed(Failed):
    """The disk refused to write or to read. Facts: path, reason."""

    code = "STORE_FAILED"


class StoreUnreadable(StoreFailed):
    """This machine could not read a copy just now; it is kept, and nothing is known of it. Facts: path, reason."""

    code = "STORE_UNREADABLE"
    temporary = True
