"""What the coordinator says of clusters, nodes, regions and placements."""

from weft.model.errors.tree import Conflict, Failed, Gone, NotFound


class ClusterNotFound(NotFound):
    """No cluster has been founded."""

    code = "CLUSTER_NOT_FOUND"


class NodeNotFound(NotFound):
    """No node of that id is in the cluster. Facts: node_id."""

    code = "NODE_NOT_FOUND"


class EndpointNotFound(NotFound):
    """The node has not said how it can be reached. Facts: node_id."""

    code = "ENDPOINT_NOT_FOUND"


class RegionNotFound(NotFound):
    """No region of that name exists. Facts: region."""

    code = "REGION_NOT_FOUND"


class AttachmentNotFound(NotFound):
    """The attachment was closed, lapsed or never was. Facts: region, attachment_id."""

    code = "ATTACHMENT_NOT_FOUND"


class PlacementNotFound(NotFound):
    """The placement was given back, forgotten or never was. Facts: placement_id."""

    code = "PLACEMENT_NOT_FOUND"


class NoSuitableNode(NotFound):
    """Every node was refused by a filter, or there is none. Facts: nodes, and explanation when it was asked for."""

    code = "NO_SUITABLE_NODE"


class ModelNotAvailable(NotFound):
    """No node that lives has the model. Facts: model."""

    code = "MODEL_NOT_AVAILABLE"


class ClusterExists(Conflict):
    """A cluster is already there; a coordinator keeps one. Facts: cluster_name."""

    code = "CLUSTER_EXISTS"


class NodeExists(Conflict):
    """A node of that id is already in the cluster. Facts: node_id."""

    code = "NODE_EXISTS"


class IncarnationRetired(Conflict):
    """A process beats under a life of its node that has already been followed by another. Facts: node_id."""

    code = "INCARNATION_RETIRED"


class BeatReplayed(Conflict):
    """A beat is no newer than one that counted already. Facts: node_id."""

    code = "BEAT_REPLAYED"


class RegionExists(Conflict):
    """A region of that name exists. Facts: region, state."""

    code = "REGION_EXISTS"


class RegionNotReady(Conflict):
    """The region cannot be used in the state it is in. Facts: region, state."""

    code = "REGION_NOT_READY"


class RegionSealed(Conflict):
    """The region is sealed: nobody may write to it any more. Facts: region."""

    code = "REGION_SEALED"


class RegionNotSealed(Conflict):
    """The mode needs a sealed region. Facts: region."""

    code = "REGION_NOT_SEALED"


class RegionInUse(Conflict):
    """Attachments are open. Facts: region, attachments."""

    code = "REGION_IN_USE"


class AttachmentConflict(Conflict):
    """Another attachment excludes this one. Facts: region, holders."""

    code = "ATTACHMENT_CONFLICT"


class CapacityExceeded(Conflict):
    """More memory was asked for than is lent and free. Facts: wanted_bytes, free_bytes."""

    code = "CAPACITY_EXCEEDED"


class NotYet(Conflict):
    """What was asked has a place in the design and is not there yet."""

    code = "NOT_YET"


class PositionAhead(Conflict):
    """This log has not come so far; the position is another log's. Facts: from, position."""

    code = "POSITION_AHEAD"


class WorkerReset(Gone):
    """The node a job was placed on was lost, and the job with it; place it again. Facts: placement_id, node_id."""

    code = "WORKER_RESET"


class PositionCompacted(Gone):
    """The log no longer begins early enough; read the state, and follow from its position. Facts: from, oldest."""

    code = "POSITION_COMPACTED"


class Unavailable(Failed):
    """The service cannot answer now. Facts: reason."""

    code = "UNAVAILABLE"
    temporary = True


class NotTheWriter(Unavailable):
    """This coordinator follows the log; another writes it. Facts: writer, its address or an empty text."""

    code = "NOT_THE_WRITER"


class LenderSilent(Failed):
    """Lenders did not confirm in time. Facts: nodes."""

    code = "LENDER_SILENT"
    temporary = True


class CloudProfileOff(Failed):
    """The coordinator runs in the home profile, in which there is no registry of nodes. Facts: variable, node_id."""

    code = "CLOUD_PROFILE_OFF"


class Internal(Failed):
    """A bug, told to the caller without its details; those are in the log under the request id."""

    code = "INTERNAL"


class PoolUnavailable(Failed):
    """No pool that would do has a free slot just now. Facts: refused, why each pool was passed over."""

    code = "POOL_UNAVAILABLE"
    temporary = True


class NodeUnavailable(Failed):
    """The node that was asked for by name is not there, or is given no work. Facts: node_id."""

    code = "NODE_UNAVAILABLE"
