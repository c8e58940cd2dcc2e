"""Everything a client asks of the coordinator, as flows. No I/O here: `weft.client.flow` carries a flow out.

`patience_s` is how long a question may take in all, retries included, beyond what the coordinator was asked to wait.
"""

from collections.abc import Sequence
from types import NoneType
from typing import Any, TypeVar

from weft.api.bodies.beat import BeatBody, BeatReply
from weft.api.bodies.cluster import (
    ClusterBody,
    ClusterCreated,
    ClusterInfo,
    EndpointBody,
    EndpointList,
    EndpointRegisteredBody,
    HealthBody,
    NodeBody,
    NodeJoined,
    NodeRemovedBody,
)
from weft.api.bodies.object import ObjectBody, ObjectInfo, ObjectList, ObjectTargets, ReplicaBody
from weft.api.bodies.pools import RegistrationBody, RegistrationReply
from weft.api.bodies.region import (
    AttachmentBody,
    AttachmentDetached,
    AttachmentOpenedBody,
    EmptyBody,
    GrantRenewed,
    RegionBody,
    RegionDeleting,
    RegionInfo,
    RegionList,
)
from weft.api.bodies.storage import Done
from weft.client.call import Call, perform
from weft.client.flow import Flow, Pause, now
from weft.dataplane.choice import Registered
from weft.dataplane.rdma import RdmaRecord
from weft.model.errors import BadArgument, RegionExists, RegionNotFound, RegionNotReady, TimedOut
from weft.model.policy import ATTACH_MS_MAX, OBJECT_LIST_MAX, REQUEST_MS_MAX, reserve_ms_max

T = TypeVar("T")

# What a question may take in all: a coordinator that is being restarted is back within this.
PATIENCE_S = 2 * REQUEST_MS_MAX / 1000
# Attaching waits for every lender to know the new generation, and is tried again when one was silent.
ATTACH_PATIENCE_S = 3 * ATTACH_MS_MAX / 1000
# One waiting question; shorter than what closes silent connections on the way.
_WAIT_MS = 5_000
# How often a deleted region is asked for: lenders release in the next beat, which comes at once.
_GONE_PAUSE_S = 0.05


class Coordinator:
    """The questions, asked with a bearer token or without one, each with `patience_s` unless it says otherwise."""

    def __init__(self, token: str | None = None, patience_s: float = PATIENCE_S) -> None:
        self._token = token
        self._patience_s = patience_s

    def health(self, patience_s: float | None = None) -> Flow[HealthBody]:
        """Whether the coordinator serves."""
        return self._ask("show_health", HealthBody, patience_s)

    def cluster(self, patience_s: float | None = None) -> Flow[ClusterInfo]:
        """The cluster and its members. Raises ClusterNotFound before somebody founded it."""
        return self._ask("show_cluster", ClusterInfo, patience_s)

    def found(self, name: str, patience_s: float | None = None) -> Flow[ClusterCreated]:
        """Founds the cluster, without nodes. Raises ClusterExists when another was first."""
        return self._ask("found_cluster", ClusterCreated, patience_s, body=ClusterBody(name=name))

    def join(self, node: NodeBody, patience_s: float | None = None) -> Flow[NodeJoined]:
        """Takes a node in. Raises NodeExists when it is there from an earlier life."""
        return self._ask("register_node", NodeJoined, patience_s, body=node)

    def leave(self, node_id: str, patience_s: float | None = None) -> Flow[NodeRemovedBody]:
        """Lets a node go."""
        return self._ask("remove_node", NodeRemovedBody, patience_s, path={"node_id": node_id})

    def register_pools(self, node: RegistrationBody, patience_s: float | None = None) -> Flow[RegistrationReply]:
        """Takes a node that runs engines in, or describes it anew. Raises CloudProfileOff."""
        return self._ask("register_pool_node", RegistrationReply, patience_s, body=node)

    def deregister_pools(self, node_id: str, patience_s: float | None = None) -> Flow[None]:
        """Lets a node that runs engines go."""
        return self._ask("deregister_pool_node", NoneType, patience_s, path={"node_id": node_id})

    def use_token(self, token: str | None) -> None:
        """Shows another token from the next question on."""
        self._token = token

    def register_endpoint(
        self, node_id: str, host: str, port: int, patience_s: float | None = None
    ) -> Flow[EndpointRegisteredBody]:
        """Says where a node listens."""
        return self._ask(
            "register_endpoint",
            EndpointRegisteredBody,
            patience_s,
            path={"node_id": node_id},
            body=EndpointBody(transport_type="tcp", tcp_addr=host, tcp_port=port),
        )

    def register_rdma(
        self, node_id: str, queue_pair: int, lid: int, gid: str, packet_sequence: int, patience_s: float | None = None
    ) -> Flow[EndpointRegisteredBody]:
        """Says that a node speaks RDMA, and prefers it; where it listens stays the way to agree on it."""
        return self._ask(
            "register_endpoint",
            EndpointRegisteredBody,
            patience_s,
            path={"node_id": node_id},
            body=EndpointBody(
                transport_type="rdma", rdma_qpn=queue_pair, rdma_lid=lid, rdma_gid=gid, rdma_psn=packet_sequence
            ),
        )

    def endpoints(self, patience_s: float | None = None) -> Flow[EndpointList]:
        """How every node is reached."""
        return self._ask("list_endpoints", EndpointList, patience_s)

    def beat(self, node_id: str, body: BeatBody, patience_s: float | None = None) -> Flow[BeatReply]:
        """Says that a node lives and waits for news of what it should hold."""
        return self._ask(
            "beat",
            BeatReply,
            patience_s,
            path={"node_id": node_id},
            body=body,
            wait_ms=body.wait_ms,
        )

    def regions(self, patience_s: float | None = None) -> Flow[RegionList]:
        """Every region, and what is lent and free."""
        return self._ask("list_regions", RegionList, patience_s)

    def region(self, name: str, wait_ms: int = 0, patience_s: float | None = None) -> Flow[RegionInfo]:
        """A region; with `wait_ms`, as soon as it is no longer planned."""
        return self._ask(
            "show_region",
            RegionInfo,
            patience_s,
            path={"name": name},
            query={"wait_ms": wait_ms} if wait_ms else {},
            wait_ms=wait_ms,
        )

    def plan_region(
        self, name: str, size_bytes: int, lenders_max: int | None = None, patience_s: float | None = None
    ) -> Flow[RegionInfo]:
        """Plans a region. Raises RegionExists, or CapacityExceeded with the numbers."""
        if size_bytes <= 0:
            raise BadArgument(f"region {name!r} cannot have {size_bytes} bytes; give it a size such as 64GiB")
        body = RegionBody(name=name, size_bytes=size_bytes, lenders=lenders_max)
        return self._ask("plan_region", RegionInfo, patience_s, body=body)

    def find_or_plan_region(
        self, name: str, size_bytes: int | None, lenders_max: int | None = None
    ) -> Flow[RegionInfo]:
        """The region of that name, planned now if there is none and a size says how large it is to be.

        Raises RegionNotFound without a size, and BadArgument when one of another size is there.
        """
        try:
            found = yield from self.region(name)
        except RegionNotFound as error:
            if size_bytes is None:
                raise RegionNotFound(
                    f"there is no region {name!r}; give a size to create it, as in region({name!r}, size='64GiB')",
                    region=name,
                ) from error
            try:
                return (yield from self.plan_region(name, size_bytes, lenders_max))
            except RegionExists:
                # Another program created it in between: what it made is what counts.
                found = yield from self.region(name)
        if size_bytes is not None and found.size_bytes != size_bytes:
            raise BadArgument(
                f"region {name!r} is there with {found.size_bytes} bytes and {size_bytes} were asked for; "
                "leave the size out to take it as it is, or delete it first",
                region=name,
                size_bytes=found.size_bytes,
                wanted_bytes=size_bytes,
            )
        return found

    def ready_region(self, name: str, patience_s: float | None = None) -> Flow[RegionInfo]:
        """The region once lenders have backed it; how long that may take grows with its size.

        Raises RegionNotReady with the lenders' reason when they could not, and TimedOut.
        """
        found = yield from self.region(name)
        limit_s = reserve_ms_max(found.size_bytes) / 1000 if patience_s is None else patience_s
        deadline_s = (yield from now()) + limit_s
        while found.state == "planned":
            left_s = deadline_s - (yield from now())
            if left_s <= 0:
                raise TimedOut(
                    f"region {name!r} was not ready within {limit_s:.0f} s: its lenders are still backing it",
                    region=name,
                )
            found = yield from self.region(name, wait_ms=max(1, min(_WAIT_MS, int(left_s * 1000))))
        if found.state in ("failed", "deleting"):
            reason = found.error or "it is being deleted"
            raise RegionNotReady(f"region {name!r} cannot be used: {reason}", region=name, state=found.state)
        return found

    def attach(
        self, name: str, mode: str, holder: str, *, takeover: bool = False, patience_s: float | None = None
    ) -> Flow[AttachmentOpenedBody]:
        """Opens an attachment of a region once it is ready, and again when a lender was silent for a moment."""
        yield from self.ready_region(name, patience_s)
        body = AttachmentBody(mode=mode, holder=holder, takeover=takeover)  # type: ignore[arg-type]
        return (
            yield from self._ask(
                "open_attachment",
                AttachmentOpenedBody,
                ATTACH_PATIENCE_S if patience_s is None else patience_s,
                path={"name": name},
                body=body,
                wait_ms=ATTACH_MS_MAX,
            )
        )

    def renew(self, name: str, attachment_id: str, patience_s: float | None = None) -> Flow[GrantRenewed]:
        """Keeps an attachment for another lease."""
        path = {"name": name, "attachment_id": attachment_id}
        return self._ask("renew_attachment", GrantRenewed, patience_s, path=path, body=EmptyBody())

    def detach(self, name: str, attachment_id: str, patience_s: float | None = None) -> Flow[AttachmentDetached]:
        """Closes an attachment."""
        path = {"name": name, "attachment_id": attachment_id}
        return self._ask("close_attachment", AttachmentDetached, patience_s, path=path)

    def seal(self, name: str, patience_s: float | None = None) -> Flow[RegionInfo]:
        """Lets nobody write to a region any more."""
        return self._ask("seal_region", RegionInfo, patience_s, path={"name": name}, body=EmptyBody())

    def delete_region(self, name: str, *, force: bool = False, patience_s: float | None = None) -> Flow[RegionDeleting]:
        """Deletes a region; with `force` its attachments are closed first."""
        query: dict[str, str | int] = {"force": 1} if force else {}
        return self._ask("delete_region", RegionDeleting, patience_s, path={"name": name}, query=query)

    def register_object(
        self, object_hash: str, size_bytes: int, replicas: int, patience_s: float | None = None
    ) -> Flow[Done]:
        """Puts an object into the books; one that is there stays as it is."""
        body = ObjectBody(hash=object_hash, size=size_bytes, rf=replicas)
        return self._ask("register_object", Done, patience_s, body=body)

    def object(self, object_hash: str, patience_s: float | None = None) -> Flow[ObjectInfo]:
        """An object and who holds it. Raises ObjectNotFound."""
        return self._ask("show_object", ObjectInfo, patience_s, path={"hash": object_hash})

    def delete_object(self, object_hash: str, patience_s: float | None = None) -> Flow[Done]:
        """Lets there be no such object any more. Raises ObjectNotFound."""
        return self._ask("delete_object", Done, patience_s, path={"hash": object_hash})

    def object_targets(
        self, object_hash: str, without: Sequence[str] = (), patience_s: float | None = None
    ) -> Flow[ObjectTargets]:
        """The nodes an object should be put on, leaving out those that were tried."""
        query: dict[str, str | int] = {"without": ",".join(without)} if without else {}
        return self._ask("show_object_targets", ObjectTargets, patience_s, path={"hash": object_hash}, query=query)

    def objects(
        self,
        *,
        under_replicated: bool = False,
        absent: bool = False,
        after: str = "",
        limit: int = OBJECT_LIST_MAX,
        patience_s: float | None = None,
    ) -> Flow[ObjectList]:
        """A page of the objects."""
        query: dict[str, str | int] = {"after": after, "limit": limit}
        query |= {"under_replicated": 1} if under_replicated else {}
        query |= {"absent": 1} if absent else {}
        return self._ask("list_objects", ObjectList, patience_s, query=query)

    def mark_missing(self, object_hash: str, node_id: str, patience_s: float | None = None) -> Flow[Done]:
        """Says that a node does not hold a copy it should; the node looks."""
        body = ReplicaBody(hash=object_hash, node_id=node_id)
        return self._ask("mark_replica_missing", Done, patience_s, body=body)

    def gone_region(self, name: str, patience_s: float | None = None) -> Flow[None]:
        """Returns once the lenders gave a deleted region's memory back and its name is free. Raises TimedOut."""
        limit_s = self._patience_s if patience_s is None else patience_s
        deadline_s = (yield from now()) + limit_s
        while (yield from now()) < deadline_s:
            try:
                yield from self.region(name)
            except RegionNotFound:
                return
            yield Pause(_GONE_PAUSE_S)
        raise TimedOut(
            f"region {name!r} was not gone after {limit_s:.0f} s: a lender has not given its memory back yet",
            region=name,
        )

    def _ask(self, operation: str, reply: type[T], patience_s: float | None, **rest: Any) -> Flow[T]:
        call = Call(operation=operation, reply=reply, token=self._token, **rest)
        limit_s = (self._patience_s if patience_s is None else patience_s) + call.wait_ms / 1000
        return (yield from perform(call, (yield from now()) + limit_s))


def addresses(endpoints: EndpointList, *, without: str | None = None) -> list[tuple[str, str, int]]:
    """Where nodes are reached over TCP: (node id, host, port). A node without a TCP half cannot be dialled."""
    return addresses_of(endpoints.endpoints, without=without)


def addresses_of(endpoints: dict[str, Any], *, without: str | None = None) -> list[tuple[str, str, int]]:
    """The same of a bare table of endpoints."""
    return [
        (node_id, endpoint.tcp_addr, endpoint.tcp_port)
        for node_id, endpoint in endpoints.items()
        if node_id != without and endpoint.tcp_addr is not None and endpoint.tcp_port is not None
    ]


def registered(listed: EndpointList) -> dict[str, Registered]:
    """The records of those that can be dialled, as the choice of a transport wants them."""
    records: dict[str, Registered] = {}
    for node_id, one in listed.endpoints.items():
        if one.tcp_addr is None or one.tcp_port is None:
            continue
        rdma = None
        if one.rdma_qpn is not None and one.rdma_gid is not None:
            rdma = RdmaRecord(
                queue_pair=one.rdma_qpn, lid=one.rdma_lid or 0, gid=one.rdma_gid, packet_sequence=one.rdma_psn or 0
            )
        records[node_id] = Registered(
            name=node_id,
            host=one.tcp_addr,
            port=one.tcp_port,
            rdma=rdma,
            prefers=one.transport_type,
            version=one.version,
        )
    return records
