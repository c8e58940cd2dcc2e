"""The pools door over HTTP: nodes that run engines register, beat, leave and are listed.

In the home profile there is no registry, and every route here says so with the variable that turns it on.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import msgspec

from weft.api.bodies.fields import iso_time
from weft.api.bodies.pools import (
    BindingInfo,
    EngineInfo,
    EngineList,
    HeartbeatReply,
    PoolBody,
    PoolNodeInfo,
    PoolNodeList,
    RegistrationReply,
)
from weft.api.doors.pools import body_to_pool, node_to_body, registration_to_command, status_of
from weft.api.route import Route
from weft.coordinator.beats import Beats
from weft.coordinator.bindings import Binding, Bindings
from weft.coordinator.causes import cause_of
from weft.coordinator.chronicle import Chronicle
from weft.coordinator.observations import Observations, Word
from weft.coordinator.ports import Clock
from weft.coordinator.replays import ReplayGuard
from weft.coordinator.writer import Writer
from weft.core.node import existing_node
from weft.model.commands import RemoveNode
from weft.model.errors import BodyTooLarge, CloudProfileOff, InvalidField, NotFound, TimedOut, WeftError
from weft.model.events import NodeRegistered
from weft.model.ids import NodeId, parse_node_id
from weft.model.node import Node, NodeStatus
from weft.model.policy import REQUEST_MS_MAX
from weft.serve import Call, Handler
from weft.telemetry import Log

CLOUD_VARIABLE = "ORCHESTRATORD_CLOUD_PROFILE"

_COUNTED_AS: Final = {
    "register_pool_node": "registration",
    "heartbeat": "heartbeat",
    "deregister_pool_node": "deregistration",
}

Reply = TypeVar("Reply")


class _Named(msgspec.Struct, frozen=True):
    """Of a body, only which node it is about."""

    node_id: str | None = None


Answering = Callable[["PoolNodes", Call], Awaitable[Reply]]


def _counted(operation: str) -> Callable[[Answering[Reply]], Answering[Reply]]:
    """Count how each call of an operation ended."""

    def wrap(answer: Answering[Reply]) -> Answering[Reply]:
        @functools.wraps(answer)
        async def counted(self: "PoolNodes", call: Call) -> Reply:
            try:
                reply = await answer(self, call)
            except WeftError as error:
                self.chronicle.count(operation, call.path.get("node_id"), outcome_of(error))
                raise
            self.chronicle.count(operation, call.path.get("node_id"), "ok")
            return reply

        return counted

    return wrap


def outcome_of(error: WeftError) -> str:
    """How a call that was refused is counted."""
    match error:
        case NotFound():
            return "not_found"
        case InvalidField():
            return "invalid"
        case _:
            return "error"


class PoolNodes:
    """Answers for nodes that run engines."""

    def __init__(
        self,
        writer: Writer,
        beats: Beats,
        replays: ReplayGuard,
        observations: Observations,
        bindings: Bindings,
        chronicle: Chronicle,
        clock: Clock,
        log: Log,
        *,
        cluster_name: str,
    ) -> None:
        self.chronicle = chronicle
        self._writer = writer
        self._beats = beats
        self._replays = replays
        self._observations = observations
        self._bindings = bindings
        self._clock = clock
        self._cluster_name = cluster_name
        self._log = log
        self._strangers: dict[NodeId, frozenset[str]] = {}
        self._beat_due = HeartbeatReply(next_heartbeat_ms=beats.patience.beat_ms)

    def closed(self, route: Route) -> Handler:
        """What answers a route of the cloud profile in the home profile: its refusal, whatever else is wrong."""
        counted = _COUNTED_AS.get(route.operation)

        async def refuse(call: Call) -> None:
            if counted is not None:
                self.chronicle.count(counted, call.path.get("node_id"), "disabled")
            raise CloudProfileOff(
                f"the cloud profile is off, so there is no registry of nodes; set {CLOUD_VARIABLE}=true to have one",
                variable=CLOUD_VARIABLE,
                node_id=call.path.get("node_id") or await _node_named(call, route),
            )

        return refuse

    @_counted("registration")
    async def register(self, call: Call) -> RegistrationReply:
        """POST /v2/nodes/register."""
        command = registration_to_command(call.body, self._cluster_name)
        answer = await self._writer.submit(command, cause_of(call))
        self._beats.notice(command.node_id)
        is_new = any(isinstance(event, NodeRegistered) for event in answer.events)
        what = "node registered" if is_new else "node re-registered"
        self.chronicle.tell(what, command.node_id, call, machine_id=call.body.machine_id)
        self._keep_promised(command.node_id)
        return RegistrationReply(message=what, node_id=command.node_id)

    @_counted("heartbeat")
    async def heartbeat(self, call: Call) -> HeartbeatReply:
        """POST /v2/nodes/{node_id}/heartbeat."""
        node_id = parse_node_id(call.path["node_id"])
        node = self._existing(node_id)
        pools = call.body.pools
        if not self._observations.knows(node, pools) and (strangers := _unregistered(node, pools)):
            named = ", ".join(sorted(strangers))
            raise InvalidField(
                f"pools: node {node_id} registered without {named}; register again to add pools",
                field="pools",
                node_id=node_id,
            )
        self._replays.check(node_id, call.body.timestamp)
        self.take_pools(await self._beats.hear_of(node_id), pools)
        return self._beat_due

    @_counted("deregistration")
    async def deregister(self, call: Call) -> None:
        """DELETE /v2/nodes/{node_id}."""
        node_id = parse_node_id(call.path["node_id"])
        self._existing(node_id)
        await self._writer.submit(RemoveNode(node_id=node_id), cause_of(call))
        self.chronicle.tell("node deregistered", node_id, call)

    @_counted("list")
    async def show_all(self, call: Call) -> PoolNodeList:
        """GET /v2/nodes."""
        wanted, now_ms = status_of(call.query.status), self._clock.now_ms()
        rows = sorted(self._writer.state.nodes.values(), key=lambda node: node.node_id)
        nodes = [self._show(node, now_ms) for node in rows]
        listed = [node for node in nodes if wanted is None or node.status == wanted]
        return PoolNodeList(nodes=listed, count=len(listed))

    async def list_engines(self, call: Call) -> EngineList:  # noqa: ARG002
        """GET /engines, in every profile."""
        owners = sorted(self._bindings.owners, key=lambda owner: owner or "")
        return EngineList(
            engines=[
                EngineInfo(
                    node_id=owner,
                    pool=binding.pool_id,
                    replica=binding.replica_id,
                    url=binding.url,
                    bound_at=iso_time(binding.bound_at_ms),
                )
                for owner in owners
                if owner is None or not self._is_past_its_time(owner)
                for binding in self._bindings.of(owner)
            ]
        )

    def take_pools(self, node: Node, pools: list[PoolBody]) -> None:
        """A node described its pools, in a beat at whichever door: what it does not name it does not have.

        A node that registered its pools has those and no others. The pools door refuses a beat with others; here they
        are left out, with a line that says so once, because the beat is about the node's memory too.
        """
        node_id = node.node_id
        if self._observations.knows(node, pools):
            self._observations.see_again(node_id)
            return
        kept = self._registered(node, pools)
        snapshots = [body_to_pool(pool) for pool in kept]
        # A word that was not taken whole is read again each time, so that the pools door refuses it each time.
        word = Word(node, pools) if len(kept) == len(pools) else None
        self._observations.see_pools(node_id, snapshots, word)
        self._bindings.see(node_id, snapshots)

    def _registered(self, node: Node, pools: list[PoolBody]) -> list[PoolBody]:
        node_id, nodes = node.node_id, self._writer.state.nodes
        strangers = _unregistered(node, pools)
        if strangers != self._strangers.get(node_id, frozenset()):
            self._strangers[node_id] = strangers
            # As many as there are nodes, so that names that come and go leave nothing behind.
            self._strangers = {known: left for known, left in self._strangers.items() if left and known in nodes}
            if strangers:
                self._log.warning(
                    "pools left out: the node registered without them; register again to add pools",
                    node_id=node_id,
                    pools=sorted(strangers),
                )
        return [pool for pool in pools if pool.pool_id not in strangers]

    def _keep_promised(self, node_id: NodeId) -> None:
        """Forget what was said of pools a node no longer registers."""
        node = self._writer.state.nodes.get(node_id)
        if node is None or node.engines is None:
            return
        seen = self._observations.pools_of(node_id)
        kept = [pool for pool in seen.values() if pool.pool_id in node.engines.pool_ids]
        if len(kept) < len(seen):
            self._observations.see_pools(node_id, kept)
            self._bindings.see(node_id, kept)

    def _existing(self, node_id: NodeId) -> Node:
        return existing_node(self._writer.state, node_id)

    def _is_past_its_time(self, node_id: NodeId) -> bool:
        """Whether a node is offline to every reader, also where no sweep has written it down yet."""
        node = self._writer.state.nodes.get(node_id)
        return node is None or self._beats.standing(node).status is NodeStatus.OFFLINE

    def _show(self, node: Node, now_ms: int) -> PoolNodeInfo:
        silence_ms, status = self._beats.silence_ms(node.node_id), self._beats.standing(node).status
        bindings = [] if status is NodeStatus.OFFLINE else self._bindings.of(node.node_id)
        return node_to_body(
            node,
            status,
            silence_ms,
            now_ms,
            self._observations.pools_of(node.node_id),
            [_binding_info(binding) for binding in bindings],
        )


def _unregistered(node: Node, pools: Iterable[PoolBody]) -> frozenset[str]:
    """The pools among these that a node registered without. One that did not register its pools has what it says."""
    if node.engines is None:
        return frozenset()
    return frozenset([pool.pool_id for pool in pools]).difference(node.engines.pool_ids)


async def _node_named(call: Call, route: Route) -> str | None:
    """The node a body names, where there is a body and it is one; a refusal repeats it."""
    if route.body is None:
        return None
    try:
        return msgspec.json.decode(await call.read(route.body_bytes_max, REQUEST_MS_MAX), type=_Named).node_id
    except (BodyTooLarge, TimedOut, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _binding_info(binding: Binding) -> BindingInfo:
    return BindingInfo(
        pool=binding.pool_id,
        replica=binding.replica_id,
        url=binding.url,
        bound_at=iso_time(binding.bound_at_ms),
    )
