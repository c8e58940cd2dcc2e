"""The books against a model simple enough to be believed: nodes, endpoints, objects and copies, in batches of any size.

Commands are drawn in runs and decided in one batch, so each is decided against what those before it became and nobody
has merged yet. The model takes them one by one. Refused or not must agree for each, and the tables after each batch;
at the end the log, followed from nothing, gives the same digest as living through it.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.worlds import World, node, replay
from weft.core.state import state_digest
from weft.model.commands import (
    AdmitBeat,
    Command,
    DeleteObject,
    DestroyCluster,
    FoundCluster,
    GiveUpNode,
    MarkHealed,
    MarkMissing,
    RegisterEndpoint,
    RegisterObject,
    RemoveNode,
    ReportReplicas,
)
from weft.model.endpoint import RdmaHalf, TcpHalf
from weft.model.errors import WeftError
from weft.model.ids import Incarnation, NodeId
from weft.model.node import NodeStatus
from weft.model.object import ObjectHash

NODES = st.sampled_from([NodeId(name) for name in "abc"])
OBJECTS = st.sampled_from([ObjectHash(digit * 64) for digit in "01"])
LIVES = st.sampled_from([Incarnation(1), Incarnation(2)])
TCP = st.builds(lambda port: TcpHalf(address="10.0.0.1", port=port), st.integers(1, 3))
RDMA = st.builds(lambda number: RdmaHalf(queue_pair=number, lid=0, gid=bytes(16), packet_sequence=1), st.integers(1, 3))
COMMANDS = st.one_of(
    st.just(FoundCluster(name="c", nodes=())),
    st.builds(lambda node_id: node(node_id), NODES),
    st.builds(lambda node_id: node(node_id), NODES),
    st.builds(lambda node_id: RemoveNode(node_id=node_id), NODES),
    st.builds(lambda node_id, life: AdmitBeat(node_id=node_id, incarnation=life), NODES, LIVES),
    st.builds(lambda node_id, life: GiveUpNode(node_id=node_id, incarnation=life), NODES, LIVES),
    st.builds(lambda node_id, half: RegisterEndpoint(node_id=node_id, half=half), NODES, TCP | RDMA),
    st.builds(
        lambda one, size, wanted: RegisterObject(object_hash=one, size_bytes=size, replicas_wanted=wanted),
        OBJECTS,
        st.integers(0, 2),
        st.integers(1, 3),
    ),
    st.builds(lambda one: DeleteObject(object_hash=one), OBJECTS),
    st.builds(lambda one, node_id: MarkMissing(object_hash=one, node_id=node_id), OBJECTS, NODES),
    st.builds(lambda one, node_id: MarkHealed(object_hash=one, node_id=node_id), OBJECTS, NODES),
    st.builds(
        lambda node_id, life, held, gone: ReportReplicas(
            node_id=node_id, incarnation=life, held=tuple(held), gone=tuple((one, "corrupt") for one in gone)
        ),
        NODES,
        LIVES,
        st.lists(OBJECTS, max_size=2),
        st.lists(OBJECTS, max_size=2),
    ),
)


class Life:
    """What the model knows of a node."""

    def __init__(self) -> None:
        self.now: Incarnation | None = None
        self.retired: set[Incarnation] = set()
        self.offline = False


class Model:
    """The books, kept in dictionaries. `take` says whether a command is let through."""

    def __init__(self) -> None:
        self.founded = False
        self.nodes: dict[NodeId, Life] = {}
        self.endpoints: dict[NodeId, dict[str, Any]] = {}
        self.objects: dict[ObjectHash, tuple[int, int]] = {}
        self.copies: dict[ObjectHash, set[NodeId]] = {}
        # Nodes that took a copy away with them.
        self.left: dict[ObjectHash, set[NodeId]] = {}
        self.deleting: set[ObjectHash] = set()

    def take(self, command: Command) -> bool:
        taken = self._take(command)
        for one in [one for one in self.deleting if not self.copies.get(one) and not self.left.get(one)]:
            # With its last copy a deleted object leaves the books.
            self.deleting.discard(one)
            self.objects.pop(one, None)
            self.copies.pop(one, None)
            self.left.pop(one, None)
        return taken

    def _take(self, command: Command) -> bool:
        match command:
            case FoundCluster():
                before, self.founded = self.founded, True
                return not before
            case DestroyCluster():
                before, self.founded = self.founded, False
                if before:
                    for table in (self.nodes, self.endpoints, self.objects, self.copies, self.left, self.deleting):
                        table.clear()  # type: ignore[attr-defined]
                return before
            case RegisterObject() if command.object_hash in self.deleting:
                if any(not self.nodes[node_id].offline for node_id in self.copies[command.object_hash]):
                    return False
                self.deleting.discard(command.object_hash)
                self.objects[command.object_hash] = (command.size_bytes, command.replicas_wanted)
                return True
            case DeleteObject():
                if command.object_hash not in self.objects:
                    return False
                if command.object_hash not in self.deleting:
                    self.deleting.add(command.object_hash)
                    held = self.copies[command.object_hash]
                    held -= {node_id for node_id in held if self.nodes[node_id].now is None}
                return True
            case RegisterObject():
                self.objects.setdefault(command.object_hash, (command.size_bytes, command.replicas_wanted))
                self.copies.setdefault(command.object_hash, set())
                self.left.setdefault(command.object_hash, set())
                return True
            case MarkMissing():
                self._lose(command.object_hash, command.node_id)
                return True
            case MarkHealed():
                if command.object_hash not in self.objects or command.object_hash in self.deleting:
                    return False
                if command.node_id not in self.nodes:
                    return False
                self._gain(command.object_hash, command.node_id)
                return True
            case _:
                return self._take_of_node(command)

    def _gain(self, one: ObjectHash, node_id: NodeId) -> None:
        if one in self.objects:
            self.copies[one].add(node_id)
            self.left[one].discard(node_id)

    def _lose(self, one: ObjectHash, node_id: NodeId) -> None:
        if one in self.objects:
            self.copies[one].discard(node_id)
            self.left[one].discard(node_id)

    def _take_of_node(self, command: Any) -> bool:
        node_id = command.node.node_id if hasattr(command, "node") else command.node_id
        life = self.nodes.get(node_id)
        match command:
            case RemoveNode() if life is not None:
                del self.nodes[node_id]
                self.endpoints.pop(node_id, None)
                for one in [one for one, holders in self.copies.items() if node_id in holders]:
                    self._lose(one, node_id)
                    if life.now is not None:
                        self.left[one].add(node_id)
                return True
            case AdmitBeat() if life is not None:
                if command.incarnation in life.retired:
                    return False
                if life.now not in (None, command.incarnation):
                    life.retired.add(life.now)  # type: ignore[arg-type]
                    self._end_queue_pairs(node_id)
                life.now, life.offline = command.incarnation, False
                return True
            case GiveUpNode():
                if life is not None and life.now == command.incarnation:
                    life.offline = True
                return True
            case RegisterEndpoint() if life is not None:
                known = self.endpoints.setdefault(node_id, {"tcp": None, "rdma": None, "version": 0})
                kind = "tcp" if isinstance(command.half, TcpHalf) else "rdma"
                known |= {kind: command.half, "preferred": kind, "version": known["version"] + 1}
                return True
            case ReportReplicas():
                if life is not None and life.now == command.incarnation:
                    for one in command.held:
                        self._gain(one, node_id)
                    for one, _ in command.gone:
                        if one not in command.held:
                            self._lose(one, node_id)
                return True
            case RemoveNode() | AdmitBeat() | RegisterEndpoint():
                return False
        if life is None and self.founded:
            self.nodes[node_id] = Life()
            return True
        return False

    def _end_queue_pairs(self, node_id: NodeId) -> None:
        known = self.endpoints.get(node_id)
        if known is None or known["rdma"] is None:
            return
        if known["tcp"] is None:
            del self.endpoints[node_id]
        else:
            known |= {"rdma": None, "preferred": "tcp", "version": known["version"] + 1}


class Books(RuleBasedStateMachine):
    """The real core, decided in batches, beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = Model()

    @rule(commands=st.lists(COMMANDS, min_size=1, max_size=6))
    def batch(self, commands: list[Command]) -> None:
        outcomes = self.world.batch(*commands)
        for command, outcome in zip(commands, outcomes, strict=True):
            assert self.model.take(command) is not isinstance(outcome, WeftError), (command, outcome)

    @rule()
    def destroy(self) -> None:
        self.batch([DestroyCluster()])

    @invariant()
    def the_tables_are_what_the_model_says(self) -> None:
        state, model = self.world.state, self.model
        assert (state.cluster is not None) is model.founded
        assert {row.node_id: (row.incarnation, row.status is NodeStatus.OFFLINE) for row in state.nodes.values()} == {
            node_id: (life.now, life.offline) for node_id, life in model.nodes.items()
        }
        assert {
            row.node_id: {"tcp": row.tcp, "rdma": row.rdma, "version": row.version, "preferred": row.preferred.value}
            for row in state.endpoints.values()
        } == model.endpoints
        assert {
            row.object_hash: (row.size_bytes, row.replicas_wanted, row.replicas) for row in state.objects.values()
        } == {one: (*figures, tuple(sorted(model.copies[one]))) for one, figures in model.objects.items()}
        assert {row.object_hash for row in state.objects.values() if row.deleting} == model.deleting

    def teardown(self) -> None:
        lived = state_digest(self.world.state)
        assert state_digest(replay(self.world.log)) == lived
        assert self.world.state.marks.sequence == sum(len(sealed.batch.entries) for sealed in self.world.log)


Books.TestCase.settings = settings(max_examples=200, stateful_step_count=20, deadline=None)
TestBooks = Books.TestCase
