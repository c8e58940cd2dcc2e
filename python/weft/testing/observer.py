"""The observer: what was promised in the open, written down at the moment the promise left the coordinator.

Invariants hold the world to it afterwards. It sees every answer before the network can lose it, since a promise that
its receiver never heard was made all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from weft.api.bodies.placing import JobPlaced
from weft.client.ports import Response
from weft.core.holding import target_extents
from weft.model.ids import AttachmentId, NodeId
from weft.model.node import NodeStatus
from weft.model.object import ObjectHash
from weft.model.policy import REPLICA_COUNT
from weft.testing.dispatch import Dispatches
from weft.testing.host import PLACE, Host
from weft.testing.machine import Machine

if TYPE_CHECKING:
    from weft.testing.network import Exchange

LOGGED = frozenset({"POST /nodes", "POST /regions", "DELETE /nodes/", "POST /cluster", "attach", "detach"})
"""What leaves an event behind whenever it succeeds."""


class Observer:
    """Keeps promises and, at once, what they broke."""

    def __init__(self, hosts: Sequence[Host], machines: Mapping[str, Machine], note: Callable[[str], None]) -> None:
        self.breaches: list[str] = []
        self.books = {host.place: Dispatches(self.breaches) for host in hosts}
        for host in hosts:
            host.attend = self.books[host.place].attend
        self.position_promised = 0
        self.causes_promised: dict[str, str] = {}
        self.beats_heard = 0
        self.drops = 0
        self.floors_promised: dict[tuple[str, str], int] = {}
        self._machines, self._note = machines, note
        self._hosts = {host.place: host for host in hosts}

    def on_response(self, exchange: "Exchange", response: Response) -> None:
        """An answer leaves a coordinator."""
        host = self._hosts.get(exchange.server.name) if exchange.server is not None else None
        if host is None or exchange.target != PLACE:
            return
        if response.status >= 500 and response.status not in (503, 504):
            self.breaches.append(f"{exchange.request.method} {exchange.request.target} was answered {response.status}")
        if not 200 <= response.status < 300:
            if "/v2/placements" in exchange.request.target:
                code = msgspec.json.decode(response.body).get("code", "")
                self.books[host.place].on_refused(code, exchange.request.body)
            return
        self.position_promised = max(self.position_promised, int(response.headers.get("weft-position", "0")))
        what = _kind(exchange.request.method, exchange.request.target)
        if what == "beat":
            self._on_beat(exchange, host)
        elif what in LOGGED:
            self.causes_promised.setdefault(exchange.request.headers["weft-request-id"], what)
        if what == "attach":
            self._on_attached(response, host)
        self._on_dispatched(what, exchange.request.target, response, self.books[host.place])

    def on_dropped(self, object_hash: ObjectHash) -> None:
        """A machine let go of a copy because the plan said so. It was not the last one."""
        self.drops += 1
        if not any(machine.shelf.is_good(object_hash) for machine in self._machines.values()):
            self.breaches.append(f"the last good copy of {object_hash} was let go of")

    def _on_dispatched(self, what: str, target: str, response: Response, dispatches: Dispatches) -> None:
        """Work was sent somewhere, or came back."""
        path = target.partition("?")[0]
        if what == "POST /v2/placements":
            dispatches.on_placed(msgspec.json.decode(response.body, type=JobPlaced))
        elif what.startswith("GET /v2/placements/"):
            dispatches.on_shown(msgspec.json.decode(response.body, type=JobPlaced))
        elif what.startswith("DELETE /v2/placements/"):
            dispatches.on_ended(path.rpartition("/")[2])
        elif what == "POST /schedule":
            dispatches.on_chosen(NodeId(msgspec.json.decode(response.body)["node_id"]), "a workload")
        elif what.startswith("GET /placement/"):
            replicas = int(target.partition("rf=")[2] or REPLICA_COUNT)
            dispatches.on_ring(msgspec.json.decode(response.body), replicas)

    def _on_beat(self, exchange: "Exchange", host: Host) -> None:
        """A node that beat is there: nobody has to put it back."""
        self.beats_heard += 1
        state = host.state
        node_id = NodeId(exchange.request.target.split("/")[2])
        node = state.nodes.get(node_id) if state is not None else None
        if node is not None and node.status is NodeStatus.OFFLINE:
            self.breaches.append(f"{node_id} beat, was answered, and is still offline")

    def _on_attached(self, response: Response, host: Host) -> None:
        """A grant leaves: every lender that lives must hold its generation by now."""
        state, coordinator = host.state, host.coordinator
        if state is None or coordinator is None:
            return
        body = msgspec.json.decode(response.body)
        attachment = state.attachments.get(AttachmentId(body["attachment_id"]))
        region = state.regions.get(attachment.region_id) if attachment is not None else None
        if attachment is None or region is None:
            return
        silent = coordinator._beats.silent()
        for replica in region.layout.lenders():
            node, machine = state.nodes.get(replica.node_id), self._machines.get(replica.node_id)
            if node is None or machine is None or machine.memory is None or replica.node_id in silent:
                continue
            if node.status is NodeStatus.OFFLINE or node.incarnation != replica.incarnation:
                continue
            if machine.incarnation != replica.incarnation:
                continue
            held = any(region_id == region.region_id for region_id, _ in machine.memory.held)
            wanted = any(one.region.region_id == region.region_id for one in target_extents(state, replica.node_id))
            if not held or not wanted:
                continue
            floor = machine.memory.gates[region.region_id]
            if floor < region.floor:
                self.breaches.append(
                    f"attachment {attachment.attachment_id} of {region.name} was granted at generation "
                    f"{attachment.generation} while {replica.node_id} still let {floor} in"
                )
            key = (region.region_id, f"{replica.node_id}/{machine.incarnation}")
            self.floors_promised[key] = max(self.floors_promised.get(key, 0), region.floor)


def _kind(method: str, target: str) -> str:
    path = target.partition("?")[0]
    parts = path.strip("/").split("/")
    if parts[0] == "nodes" and len(parts) == 3 and parts[2] == "beat":
        return "beat"
    if parts[0] == "regions" and len(parts) >= 3 and parts[2] == "attachments":
        if method == "POST" and len(parts) == 3:
            return "attach"
        return "detach" if method == "DELETE" else ""
    if method == "DELETE" and parts[0] == "nodes" and len(parts) == 2:
        return "DELETE /nodes/"
    return f"{method} {path}"
