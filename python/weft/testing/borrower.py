"""A program that uses regions: it plans them, attaches, reads and writes with the grants it was given, and lets go.

What it is refused it takes as an answer; what nobody tells it, it tries again or leaves. Nothing it meets but an error
of the tree is expected.
"""

import contextlib
import hashlib
from typing import NamedTuple

from weft.api.bodies.object import ObjectTargets
from weft.api.bodies.region import AttachmentOpenedBody, RegionInfo
from weft.client.flow import Flow, run_async
from weft.model.errors import WeftError
from weft.model.object import ObjectHash
from weft.testing.cluster import Cluster, questions
from weft.testing.host import PLACE
from weft.testing.network import SimulatedHttp

_UNDER_WAY_MAX = 12
"""Questions one program has open at once; a program that is not answered does not ask on for ever."""


class Hold(NamedTuple):
    """An attachment as its holder has it."""

    region: str
    opened: AttachmentOpenedBody


class Borrower:
    """One program on a machine of its own."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.holds: list[Hold] = []
        self.under_way = 0
        self._cluster = cluster
        self._process = cluster.program(name)
        self._http = SimulatedHttp(cluster.network, self._process, PLACE)

    @property
    def is_busy(self) -> bool:
        """Whether it has as many questions open as it can."""
        return self.under_way >= _UNDER_WAY_MAX

    def ask(self, what: str, flow: Flow[object]) -> None:
        """Ask something, and note what came of it."""
        self._process.spawn(self._ask(what, flow), what)

    def attach(self, region: str, mode: str, *, takeover: bool) -> None:
        """Attach, and keep what was granted."""
        self._process.spawn(self._attach(region, mode, takeover), f"attach {region}")

    def detach(self, hold: Hold) -> None:
        """Let go."""
        self.holds.remove(hold)
        self.ask(f"detach {hold.region}", questions.detach(hold.region, hold.opened.attachment_id))

    def renew(self, hold: Hold) -> None:
        """Stay."""
        self.ask(f"renew {hold.region}", questions.renew(hold.region, hold.opened.attachment_id))

    def touch(self, hold: Hold) -> None:
        """Read or write every extent with the grant."""
        self._process.spawn(self._touch(hold), f"touch {hold.region}")

    def put(self, size_bytes: int, replicas: int) -> None:
        """Store an object: into the books, then onto the nodes the coordinator names."""
        object_hash = ObjectHash(hashlib.sha256(self._process.draw(16)).hexdigest())
        self._process.spawn(self._put(object_hash, size_bytes, replicas), f"put {object_hash}")

    async def _put(self, object_hash: ObjectHash, size_bytes: int, replicas: int) -> None:
        if await self._ask("register object", questions.register_object(object_hash, size_bytes, replicas)) is None:
            return
        chosen = await self._ask("object targets", questions.object_targets(object_hash))
        if not isinstance(chosen, ObjectTargets):
            return
        for node_id in chosen.targets:
            machine = self._cluster.machines.get(str(node_id))
            with contextlib.suppress(WeftError):
                if machine is not None:
                    await self._cluster.network.cross(self._process, machine.name)
                    if machine.stock is not None:
                        await machine.stock.receive(object_hash, size_bytes)

    async def _ask(self, what: str, flow: Flow[object]) -> object:
        self.under_way += 1
        try:
            result = await run_async(flow, self._http, self._process.clock, self._process.chance)
        except WeftError as error:
            self._note(f"{what}: {error.code}")
            return None
        else:
            self._note(f"{what}: done")
            return result
        finally:
            self.under_way -= 1

    async def _attach(self, region: str, mode: str, takeover: bool) -> None:
        flow = questions.attach(region, mode, self.name, takeover=takeover, patience_s=8.0)
        opened = await self._ask(f"attach {region} {mode}", flow)
        if isinstance(opened, AttachmentOpenedBody):
            hold = Hold(region, opened)
            self.holds.append(hold)
            await self._touch(hold)

    async def _touch(self, hold: Hold) -> None:
        """Go to every home. A lender that lets in what it promised to keep out has broken its word."""
        for node_id, index in _homes(hold.opened.region):
            machine = self._cluster.machines.get(node_id)
            if machine is None:
                continue
            with contextlib.suppress(WeftError):
                await self._cluster.network.cross(self._process, node_id)
                memory = machine.memory
                if memory is None or not machine.is_running:
                    continue
                grant = memory.access(hold.opened.grant, index)
                promised = self._cluster.observer.floors_promised.get(
                    (grant.region_id, f"{node_id}/{machine.incarnation}"), 0
                )
                if grant.generation < promised:
                    self._cluster.observer.breaches.append(
                        f"{node_id} served generation {grant.generation} of {hold.region} after {promised} was granted"
                    )

    def _note(self, line: str) -> None:
        self._cluster.trace.note(f"{self.name}: {line}")


def _homes(region: RegionInfo) -> list[tuple[str, int]]:
    return [
        (extent.replicas[0].node_id, extent.index)
        for band in region.layout.bands
        for extent in band.extents
        if extent.index not in region.lost_extents
    ]
