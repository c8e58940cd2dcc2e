"""A program that runs jobs: it asks for a place, takes the job there, holds on to it for a while and gives it back.

A job whose node was lost is placed again, in the same session. An engine that has no room after all refuses it: the
place is given back then, as a caller must.
"""

from typing import Any

from weft.api.bodies.placing import JobPlaced
from weft.client.flow import run_async
from weft.model.errors import WeftError, WorkerReset
from weft.testing.cluster import Cluster, question
from weft.testing.host import PLACE
from weft.testing.machine import Machine
from weft.testing.network import SimulatedHttp

_TRIES_MAX = 3
"""How often one job is placed before its program gives up."""


class Tenant:
    """One program with jobs of several conversations."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.under_way = 0
        self.reset_count = 0
        self._cluster = cluster
        self._process = cluster.program(name)
        self._http = SimulatedHttp(cluster.network, self._process, PLACE)
        self._hurried = False

    def run(self, hold_s: float, **needs: Any) -> None:
        """Run one job with such needs for so long."""
        self._process.spawn(self._run(hold_s, needs), f"{self.name} job")

    def hurry(self) -> None:
        """Hold no job any longer than it takes to notice."""
        self._hurried = True

    async def _run(self, hold_s: float, needs: dict[str, Any]) -> None:
        self.under_way += 1
        try:
            for _ in range(_TRIES_MAX):
                placed = await self._ask("place_job", **needs)
                if placed is None or await self._carry_out(placed, hold_s):
                    return
        finally:
            self.under_way -= 1

    async def _carry_out(self, placed: JobPlaced, hold_s: float) -> bool:
        """Be there for as long as the job takes. False when the job was lost on the way."""
        machine = self._cluster.machines.get(placed.node_id or "")
        rack = machine.rack if machine is not None else None
        began = rack is not None and machine is not None and await self._reach(machine)
        began = began and rack is not None and rack.begin(placed.pool_id, placed.placement_id)
        until_s = self._process.clock.now_s() + (hold_s if began or machine is None else 0.0)
        lost = False
        while not lost and not self._hurried and self._process.clock.now_s() < until_s:
            await self._process.clock.sleep(min(2.0, until_s - self._process.clock.now_s()))
            lost = not await self._is_there(placed.placement_id)
        if rack is not None:
            rack.end(placed.placement_id)
        await self._ask("end_job", placement_id=placed.placement_id)
        return not lost

    async def _reach(self, machine: Machine) -> bool:
        try:
            await self._cluster.network.cross(self._process, machine.name)
        except WeftError:
            return False
        return True

    async def _is_there(self, placement_id: str) -> bool:
        """Whether the job still has its place, as far as anybody can say."""
        try:
            await self._do("show_job", placement_id=placement_id)
        except WorkerReset:
            self.reset_count += 1
            return False
        except WeftError as error:
            return error.code != "PLACEMENT_NOT_FOUND"
        return True

    async def _ask(self, operation: str, **values: Any) -> Any:
        try:
            return await self._do(operation, **values)
        except WeftError as error:
            self._cluster.trace.note(f"{self.name}: {operation}: {error.code}")
            return None

    async def _do(self, operation: str, **values: Any) -> Any:
        flow = question(operation, **values)
        return await run_async(flow, self._http, self._process.clock, self._process.chance)
