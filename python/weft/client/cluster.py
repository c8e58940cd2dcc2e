"""`connect`, and what it returns: a cluster as a program holds it.

cluster = weft.connect()                                     # 127.0.0.1:8080, or WEFT_COORDINATOR
region = cluster.region("scratch", size="64GiB")             # found, or created over the machines that lend
with region.attach("exclusive") as memory: ...
"""

import os
import socket
import threading
import weakref
from types import TracebackType
from typing import Self, TypeVar, overload

from weft import config
from weft.api.bodies.cluster import ClusterInfo, EndpointList, HealthBody
from weft.api.bodies.region import RegionList
from weft.client.coordinator import PATIENCE_S, Coordinator
from weft.client.endpoint import calling_endpoint
from weft.client.flow import Flow, run
from weft.client.http import HttpxHttp
from weft.client.member import Member, join
from weft.client.objects import Objects
from weft.client.ports import Chance, Clock, Http, SystemClock, system_chance
from weft.client.region import Region
from weft.client.security import speak_tls
from weft.client.sizes import parse_size
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import Misconfigured
from weft.model.grant import http_token
from weft.model.policy import REPLICA_COUNT

T = TypeVar("T")


def connect(
    url: str | None = None,
    *,
    secret: str | bytes | None = None,
    token: str | None = None,
    holder: str | None = None,
    patience_s: float = PATIENCE_S,
) -> "Cluster":
    """The cluster whose coordinator is at `url`; nothing is sent before it is asked something.

    Without a url: WEFT_COORDINATOR, then COORDINATOR_HOST and COORDINATOR_PORT, then http://127.0.0.1:8080. The secret
    that lenders ask for is `secret`, then WEFT_SECRET, then the file the coordinator made for this user; it is needed
    only to attach. `holder` is what other people see as who holds an attachment: the host and process if not given.
    `patience_s` is how long one question may take, a coordinator's restart included. Where WEFT_TLS_CERT and its like
    name certificates, memory is reached over TLS.
    """
    speak_tls(os.environ)
    key = secret.encode() if isinstance(secret, str) else secret
    if token is None:
        token = http_token(key) if key is not None else config.client_token(os.environ)
    where = (
        (url if "://" in url else f"http://{url}").rstrip("/")
        if url is not None
        else config.coordinator_url(os.environ)
    )
    return Cluster(
        HttpxHttp(where),
        url=where,
        secret=key,
        token=token,
        holder=holder or f"{socket.gethostname()}:{os.getpid()}",
        patience_s=patience_s,
    )


class Cluster:
    """A cluster, asked over HTTP. Safe to share between threads. A context manager that closes its connections.

    `connect` makes one; tests make one of their own ports.
    """

    def __init__(
        self,
        http: Http,
        *,
        url: str,
        secret: bytes | None,
        token: str | None,
        holder: str,
        patience_s: float = PATIENCE_S,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._http = http
        self._url = url
        self._secret = secret
        self._holder = holder
        self._clock = clock or SystemClock()
        self._chance = chance or system_chance()
        self.coordinator = Coordinator(token, patience_s)
        self.objects = Objects(self)
        self._caller: Endpoint | None = None
        self._calling = threading.Lock()
        # A cluster nobody closed closes its connections when it is forgotten or the program ends; attachments are
        # younger than their cluster, so that at the end they give their leases back before this.
        self._close_http = weakref.finalize(self, http.close)

    @property
    def url(self) -> str:
        """Where the coordinator is."""
        return self._url

    @property
    def holder(self) -> str:
        """What attachments made here are held as."""
        return self._holder

    @property
    def secret(self) -> bytes:
        """The cluster's secret. Raises Misconfigured with where it was looked for."""
        found = self._secret if self._secret is not None else config.find_secret(os.environ)
        if found is None:
            where = config.data_directory(os.environ) / config.SECRET_FILE
            raise Misconfigured(
                f"the cluster's secret is neither in WEFT_SECRET nor in {where}; on the coordinator's machine "
                "`weft join` says where it is",
                variable="WEFT_SECRET",
            )
        return found

    def join(self, name: str, *, host: str | None = None, port: int = 0) -> Member:
        """Makes this process a node of the cluster by this name, whose endpoint others find by it.

        It listens at `host`: without it at the address that packets to the coordinator leave from, at `port` or one of
        the kernel's choice. Raises ClusterNotFound before somebody founded the cluster (`weft node` does), and
        IncarnationRetired while another process runs under the name.
        """
        return join(self, name, host=host, port=port)

    def region(self, name: str, size: int | str | None = None, *, lenders: int | None = None) -> Region:
        """The region of that name.

        With a size, it is created when there is none, over at most `lenders` machines; one that is there with another
        size is refused with BadArgument. Without a size it has to be there, or RegionNotFound is raised.
        """
        size_bytes = None if size is None else parse_size(size)
        return Region(self, self.ask(self.coordinator.find_or_plan_region(name, size_bytes, lenders)))

    def regions(self) -> list[Region]:
        """Every region there is."""
        return [Region(self, info) for info in self.ask(self.coordinator.regions()).regions]

    def capacity(self) -> RegionList:
        """Every region as the coordinator describes it, with what is lent and free in all."""
        return self.ask(self.coordinator.regions())

    def put(
        self, content: "str | os.PathLike[str] | bytes | bytearray | memoryview", replicas: int = REPLICA_COUNT
    ) -> str:
        """Stores the content of a file, or bytes, on so many nodes, and returns the hash it is found by.

        It returns once a majority of the copies are verified and on disks; the cluster makes what is missing. Raises
        ObjectNotStored when that many could not be had.
        """
        return self.objects.put(content, replicas).object_hash

    @overload
    def get(self, object_hash: str, into: None = None) -> bytes: ...

    @overload
    def get(self, object_hash: str, into: "str | os.PathLike[str] | bytearray | memoryview") -> int: ...

    def get(
        self, object_hash: str, into: "str | os.PathLike[str] | bytearray | memoryview | None" = None
    ) -> bytes | int:
        """Brings an object here, verified: as bytes, or into a file or a buffer, and then returns how many bytes.

        Raises ObjectNotFound when it was never put, and ObjectUnavailable when no copy of it can be had.
        """
        return self.objects.get(object_hash, into)

    def caller(self) -> Endpoint:
        """This process's end of what goes between it and the nodes; made when it is first needed."""
        with self._calling:
            if self._caller is None:
                cluster_id = bytes.fromhex(self.describe().cluster_id)
                self._caller = calling_endpoint(name=self.holder, secret=self.secret, cluster_id=cluster_id)
            return self._caller

    def describe(self) -> ClusterInfo:
        """The cluster and its members. Raises ClusterNotFound before the first node founded it."""
        return self.ask(self.coordinator.cluster())

    def endpoints(self) -> EndpointList:
        """How every node is reached."""
        return self.ask(self.coordinator.endpoints())

    def health(self, patience_s: float | None = None) -> HealthBody:
        """Whether the coordinator serves."""
        return self.ask(self.coordinator.health(patience_s))

    def ask(self, flow: Flow[T]) -> T:
        """Carries one of the coordinator's flows out."""
        return run(flow, self._http, self._clock, self._chance)

    def close(self) -> None:
        """Closes the connections to the coordinator. Attachments that are open need them: detach first."""
        with self._calling:
            if self._caller is not None:
                self._caller.close()
                self._caller = None
        self._close_http()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cluster at {self._url}>"
