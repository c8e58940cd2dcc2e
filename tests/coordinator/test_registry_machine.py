"""The registry against a model simple enough to be believed: any order of calls and of time ends in the same list."""

import asyncio
import io
from typing import Any

import httpx
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.worlds import SECRET, CountingRandom, FakeClock
from weft.coordinator.app import Coordinator, Limits
from weft.core.replay import follow
from weft.core.state import State, state_digest
from weft.ledger import MemoryJournal
from weft.telemetry import Log

NAMES = st.sampled_from(["a", "b", "c", "d"])
POOLS = st.lists(st.sampled_from(["p", "q"]), unique=True)
TIMEOUT_MS = 30_000
PURGE_MS = 300_000


class Known:
    """What the model knows of a node."""

    def __init__(self, pools: list[str], now_ms: int) -> None:
        self.pools = pools
        self.heard_ms = self.registered_ms = now_ms
        self.beaten = self.drained = self.lost = False


class Registry(RuleBasedStateMachine):
    """Calls through the real application, one after the other."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.journal = MemoryJournal()
        self.model: dict[str, Known] = {}
        self.coordinator = Coordinator(
            self.journal,
            self.clock,
            CountingRandom(),
            Log(io.StringIO(), self.clock.now_ms),
            secret=SECRET,
            name="test",
            home=False,
            limits=Limits(sweep_ms=3_600_000, node_lost_ms=TIMEOUT_MS, node_purge_ms=PURGE_MS),
        )
        self.loop.run_until_complete(self.coordinator.start())
        self.clock.running.append(self.coordinator.pulse.note)
        transport = httpx.ASGITransport(app=self.coordinator.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://coordinator")

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.loop.run_until_complete(self.http.request(method, path, json=body))

    @rule(name=NAMES, pools=POOLS)
    def register(self, name: str, pools: list[str]) -> None:
        body = {"node_id": name, "machine_id": "m", "address": "http://a:1", "pools": pools}
        assert self.ask("POST", "/v2/nodes/register", body).status_code == 200
        now_ms = self.clock.monotonic_ms()
        known = self.model.setdefault(name, Known(pools, now_ms))
        if known.lost or known.drained:
            # By the table both lead to online, whether or not the node ever beat.
            known.beaten = True
        known.pools, known.heard_ms = pools, now_ms
        known.drained = known.lost = False

    @rule(name=NAMES)
    def beat(self, name: str) -> None:
        answer = self.ask("POST", f"/v2/nodes/{name}/heartbeat", {"pools": []})
        known = self.model.get(name)
        assert answer.status_code == (200 if known is not None else 404)
        if known is not None:
            known.heard_ms, known.beaten, known.lost = self.clock.monotonic_ms(), True, False

    @rule(name=NAMES)
    def beat_with_a_stranger_s_pool(self, name: str) -> None:
        body = {"pools": [{"pool_id": "z", "ready": True}]}
        known = self.model.get(name)
        assert self.ask("POST", f"/v2/nodes/{name}/heartbeat", body).status_code == (400 if known else 404)

    @rule(name=NAMES)
    def deregister(self, name: str) -> None:
        answer = self.ask("DELETE", f"/v2/nodes/{name}")
        assert answer.status_code == (204 if self.model.pop(name, None) is not None else 404)

    @rule(name=NAMES, word=st.sampled_from(["drain", "resume"]))
    def drain_or_resume(self, name: str, word: str) -> None:
        known = self.model.get(name)
        answer = self.ask("POST", f"/nodes/{name}/{word}")
        assert answer.status_code == (200 if known is not None else 404)
        if known is not None:
            # Draining is for what has been offered work; one that never was is online once it is wanted again.
            if word == "resume" and known.drained:
                known.beaten = True
            known.drained = word == "drain"

    @rule(ms=st.sampled_from([1, 9_000, 20_000, 30_001, 400_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(ms=st.sampled_from([-3_600_000, 3_600_000]))
    def somebody_sets_the_wall_clock(self, ms: int) -> None:
        self.clock.step_ms += ms

    @rule()
    def sweep(self) -> None:
        lost = self.lost()
        self.loop.run_until_complete(self.coordinator.sweep.look())
        for name in lost:
            self.model[name].lost = True
        now_ms = self.clock.monotonic_ms()
        for name, known in list(self.model.items()):
            if known.lost and name not in lost and now_ms - known.heard_ms > TIMEOUT_MS + PURGE_MS:
                del self.model[name]

    def lost(self) -> set[str]:
        """Who is past its time and not written off, with the brake."""
        ages = {name: self.clock.monotonic_ms() - known.heard_ms for name, known in self.model.items()}
        late = {name for name, known in self.model.items() if not known.lost and ages[name] > TIMEOUT_MS}
        watched = sum(not known.lost for known in self.model.values())
        braked = len(late) >= 3 and len(late) * 2 > watched
        return {name for name in late if not braked or ages[name] > 2 * TIMEOUT_MS}

    def expected(self, name: str, lost: set[str]) -> str:
        known = self.model[name]
        if known.lost or name in lost:
            return "Offline"
        if known.drained:
            return "Draining"
        return "Online" if known.beaten else "Registering"

    @invariant()
    def the_list_is_what_the_model_says(self) -> None:
        if not hasattr(self, "http"):
            return
        nodes = self.ask("GET", "/v2/nodes").json()["nodes"]
        lost = self.lost()
        shown = {node["node_id"]: (node["status"], node["pools"]) for node in nodes}
        assert shown == {name: (self.expected(name, lost), known.pools) for name, known in self.model.items()}
        assert list(shown) == sorted(shown)

    def teardown(self) -> None:
        if not hasattr(self, "http"):
            return
        self.loop.run_until_complete(self.http.aclose())
        lived, log = self.coordinator.writer.state, self.loop.run_until_complete(self.journal.read(0, 10_000))  # type: ignore[arg-type]
        replayed = State()
        for sealed in log:
            replayed.merge(follow(replayed, sealed))
        assert state_digest(replayed) == state_digest(lived)
        self.loop.run_until_complete(self.coordinator.stop())
        self.loop.close()


Registry.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRegistry = Registry.TestCase
