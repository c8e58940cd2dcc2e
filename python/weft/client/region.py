"""A region as a program holds it: its name, what was last seen of it, and the ways to use it."""

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Literal, Self

from weft import config
from weft.api.bodies.region import AttachmentOpenedBody, LayoutInfo, RegionInfo
from weft.client.attachment import Attachment
from weft.client.coordinator import ATTACH_PATIENCE_S, addresses, addresses_of
from weft.dataplane import RegionMemory, prepare_rdma
from weft.model.errors import AttachmentNotFound, RegionNotFound, WeftError

if TYPE_CHECKING:
    from weft.client.cluster import Cluster

Mode = Literal["read", "exclusive", "private"]


class Region:
    """A named range of bytes on the machines that lend. Made by `Cluster.region`.

    Its properties are what was last seen; `refresh` looks again.
    """

    def __init__(self, cluster: "Cluster", info: RegionInfo) -> None:
        self._cluster = cluster
        self._info = info

    @property
    def name(self) -> str:
        """Its name."""
        return self._info.name

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self._info.size_bytes

    @property
    def state(self) -> str:
        """`planned`, `ready`, `damaged`, `deleting` or `failed`, as last seen."""
        return self._info.state

    @property
    def sealed(self) -> bool:
        """Whether it was sealed when last seen: nobody writes to it any more."""
        return self._info.sealed

    @property
    def layout(self) -> LayoutInfo:
        """Which lender holds what."""
        return self._info.layout

    @property
    def info(self) -> RegionInfo:
        """Everything the coordinator last said of it."""
        return self._info

    def refresh(self) -> Self:
        """Looks again, and returns the region itself. Raises RegionNotFound when it is gone."""
        self._info = self._cluster.ask(self._cluster.coordinator.region(self.name))
        return self

    def wait_ready(self, timeout_s: float | None = None) -> Self:
        """Returns once lenders have backed it. The default deadline grows with its size.

        Raises RegionNotReady with the reason when they could not, and TimedOut.
        """
        self._info = self._cluster.ask(self._cluster.coordinator.ready_region(self.name, timeout_s))
        return self

    def attach(
        self,
        mode: Mode = "read",
        *,
        takeover: bool = False,
        fault_timeout_ms: int | None = None,
        congestion: str | None = None,
    ) -> Attachment:
        """Maps the region into this process, waiting until it is ready.

        `exclusive` reads and writes, alone; `read` and `private` need a sealed region and allow any number, private
        keeping what is written to itself. `takeover` fences off whoever holds the region exclusively, for when that
        program is gone. Raises AttachmentConflict naming the holder, RegionSealed, RegionNotSealed, NoPrivilege.
        """
        cluster = self._cluster
        secret = cluster.secret
        coordinator = cluster.coordinator
        cluster_id = bytes.fromhex(cluster.ask(coordinator.cluster()).cluster_id)
        opened = cluster.ask(coordinator.attach(self.name, mode, cluster.holder, takeover=takeover))
        self._info = opened.region
        lease = _CoordinatorLease(cluster, opened)
        peers = addresses_of(opened.endpoints)
        try:
            prepare_rdma(config.rdma_choice(os.environ))
            memory = RegionMemory.map(
                region=opened.region.name,
                size_bytes=opened.region.size_bytes,
                mode=mode,
                bands=_bands(opened.region.layout),
                peers=peers,
                grant=opened.grant,
                cluster_id=cluster_id,
                secret=secret,
                holder=cluster.holder,
                incarnation=secrets.randbits(63) + 1,
                congestion=congestion,
                fault_timeout_ms=fault_timeout_ms,
                near=os.environ.get("WEFT_TRANSPORT", "").strip() in ("", "ipc"),
            )
        except BaseException:
            _release_quietly(lease)
            raise
        return Attachment(memory, lease, attachment_id=opened.attachment_id, generation=opened.generation, peers=peers)

    def seal(self) -> Self:
        """Lets nobody write to it any more, so that any number may read it. Raises RegionInUse while one may write."""
        self._info = self._cluster.ask(self._cluster.coordinator.seal(self.name))
        return self

    def delete(self, *, force: bool = False) -> None:
        """Gives its memory back to the lenders, and returns when its name is free again.

        Raises RegionInUse while attached, unless forced; TimedOut when a lender that lives does not give it back.
        """
        self._cluster.ask(self._cluster.coordinator.delete_region(self.name, force=force))
        self._cluster.ask(self._cluster.coordinator.gone_region(self.name))

    def __repr__(self) -> str:
        return f"<Region {self.name!r}, {self.size_bytes} bytes, {self.state}{', sealed' if self.sealed else ''}>"


class _CoordinatorLease:
    """A lease kept at the coordinator."""

    def __init__(self, cluster: "Cluster", opened: AttachmentOpenedBody) -> None:
        self._cluster = cluster
        self._name = opened.region.name
        self._attachment_id = opened.attachment_id

    def renew(self) -> bytes:
        return self._cluster.ask(self._cluster.coordinator.renew(self._name, self._attachment_id)).grant

    def peers(self) -> list[tuple[str, str, int]]:
        return addresses(self._cluster.ask(self._cluster.coordinator.endpoints()))

    def release(self, patience_s: float | None = None) -> None:
        # A lease that is gone already was taken over, or its region deleted: what was wanted is so.
        with contextlib.suppress(AttachmentNotFound, RegionNotFound):
            self._cluster.ask(self._cluster.coordinator.detach(self._name, self._attachment_id, patience_s))


def _release_quietly(lease: _CoordinatorLease) -> None:
    """Gives back a lease that could not be used, without hiding why it could not."""
    with contextlib.suppress(WeftError):
        lease.release(ATTACH_PATIENCE_S)


def _bands(layout: LayoutInfo) -> list[tuple[int, int, list[tuple[int, str, int]]]]:
    """The layout as the native core takes it: the home of each extent, and the life of it that counts."""
    return [
        (
            band.first_stripe,
            band.stripes,
            [
                (extent.index, extent.replicas[0].node_id, int(extent.replicas[0].incarnation, 16))
                for extent in band.extents
            ],
        )
        for band in layout.bands
    ]
