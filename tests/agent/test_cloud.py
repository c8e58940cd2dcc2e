"""A node in the cloud profile, against the real coordinator: engines that come and go, draining, coming back."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.world import DEADLINE_S, Wire, World, found_coordinator, settled, until, world
from weft.agent.cloud import CloudSettings, coordinator_of, name_of, read_cloud
from weft.agent.settings import read_settings
from weft.api.bodies.pools import PoolNodeInfo, PoolNodeList
from weft.client.call import Call, perform
from weft.client.flow import Flow
from weft.config import read_coordinator_settings
from weft.coordinator.app import Limits
from weft.dataplane import MachineMemory
from weft.handoff import Handoff, write_handoff
from weft.model.errors import CloudProfileOff, Misconfigured, MissingToken
from weft.model.policy import DRAIN_MS_MAX

CLOUD = {"POOL_MANAGERD_CLOUD_PROFILE": "true", "POOL_MANAGERD_ADDRESS": "http://10.0.0.1:9200"}


def run(story: Callable[[World], Awaitable[None]], **settings: Any) -> None:
    async def told() -> None:
        async with world(home=False, **settings) as made:
            await story(made)

    asyncio.run(told())


def cloud(directory: Path, *pools: str, registers: bool = True) -> CloudSettings:
    return CloudSettings(
        machine_id="machine-1",
        address="http://10.0.0.1:9200",
        pool_ids=pools or ("pool-0",),
        runtime_dir=directory,
        watch_interval_ms=10,
        heartbeat_s=10,
        registers=registers,
    )


async def nodes(made: World) -> dict[str, PoolNodeInfo]:
    def asked() -> Flow[PoolNodeList]:
        call = Call(operation="list_pool_nodes", reply=PoolNodeList, token=made.token)
        return perform(call, asyncio.get_running_loop().time() + DEADLINE_S)

    return {node.node_id: node for node in (await made.ask(asked())).nodes}


async def shown(made: World, condition: Callable[[PoolNodeInfo], bool]) -> PoolNodeInfo:
    """Node a once it is as it should be."""
    seen = await settled(lambda: nodes(made), lambda listed: "a" in listed and condition(listed["a"]))
    return seen["a"]


def is_ready(node: PoolNodeInfo) -> bool:
    return bool(node.pool_status) and node.pool_status[0].ready


def engine(directory: Path, **fields: Any) -> Path:
    return write_handoff(directory, Handoff(url="http://10.0.0.1:8081", pool_id="pool-0", slots_total=4, **fields))


def test_a_node_of_the_cloud_registers_at_the_pools_door_and_lends_all_the_same(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        await made.start("a", cloud=cloud(tmp_path, "p", "q"))
        node = await shown(made, lambda node: node.status == "Online")
        assert (node.machine_id, node.address, node.pools) == ("machine-1", "http://10.0.0.1:9200", ["p", "q"])
        assert (node.capabilities.cpu_cores, node.capabilities.ram_total_bytes) == (2, 1 << 30)
        assert [pool.ready for pool in node.pool_status] == [False, False]
        (member,) = (await made.ask(made.questions.cluster())).members
        assert member.lend_bytes == 64 << 20
        assert "a" in (await made.ask(made.questions.endpoints())).endpoints

    run(story)


def test_a_handoff_file_makes_the_pool_ready_in_the_next_beat_and_binds_it(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        await made.start("a", cloud=cloud(tmp_path))
        path = engine(tmp_path, slots_free=3, models_available=["m"])
        node = await shown(made, is_ready)
        (pool,), (binding,) = node.pool_status, node.bindings
        assert (pool.slots_free, pool.slots_total, pool.models_available) == (3, 4, ["m"])
        assert (binding.pool, binding.replica, binding.url) == ("pool-0", "r0", "http://10.0.0.1:8081")
        engine(tmp_path, slots_free=1)
        await shown(made, lambda node: node.pool_status[0].slots_free == 1)
        path.unlink()
        node = await shown(made, lambda node: not is_ready(node))
        assert node.bindings == []

    run(story)


def test_a_node_that_was_removed_registers_again(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        await made.start("a", cloud=cloud(tmp_path))
        engine(tmp_path)
        await shown(made, is_ready)
        await made.ask(made.questions.leave("a"))
        await shown(made, is_ready)

    run(story)


def test_a_node_reappears_after_another_coordinator_has_begun_from_nothing(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        await made.start("a", cloud=cloud(tmp_path))
        engine(tmp_path)
        await shown(made, is_ready)
        made.wire.cut()
        other = await found_coordinator(seed=9, home=False)
        try:
            made.wire.app = other.app
            made.wire.mend()
            await shown(made, is_ready)
            await made.end()
        finally:
            await other.stop()

    run(story)


def test_a_node_of_the_cloud_registers_again_when_the_coordinator_knows_nobody(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        node = await made.start("a", cloud=cloud(tmp_path))
        call = Call(operation="destroy_cluster", reply=dict)
        await made.ask(perform(call, asyncio.get_running_loop().time() + DEADLINE_S))
        await until(lambda: any("knows nobody" in remark for remark in node.remarks))
        await shown(made, lambda node: node.status == "Online")

    run(story)


def test_a_node_that_is_cut_off_is_offline_and_is_back_by_itself_when_the_way_is_there_again(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        nodes = [await made.start(name, cloud=cloud(tmp_path / name)) for name in "abc"]
        engine(tmp_path / "a")
        await shown(made, is_ready)
        others, made.questions_wire = made.wire, Wire(made.wire.app)
        others.cut()
        await shown(made, lambda node: node.status == "Offline" and node.bindings == [])
        others.mend()
        await shown(made, lambda node: node.status == "Online" and is_ready(node))
        assert not any(node.task.done() for node in nodes)

    run(story, limits=Limits(sweep_ms=20, node_lost_ms=300))


def test_a_node_begun_before_its_coordinator_is_in_once_that_answers(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        made.wire.cut()
        node = made.begin("a", cloud=cloud(tmp_path))
        await until(lambda: len(node.remarks) == 1)
        made.wire.mend()
        await shown(made, lambda node: node.status == "Online")

    run(story)


def test_a_node_that_is_told_to_stop_drains_first_and_then_is_gone(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        node = await made.start("a", cloud=cloud(tmp_path))
        engine(tmp_path, slots_free=3)
        await shown(made, is_ready)
        node.stop.set()
        seen = await shown(made, lambda node: node.status == "Draining")
        assert [pool.draining for pool in seen.pool_status] == [True]
        assert seen.bindings == []
        assert not node.task.done()
        engine(tmp_path, slots_free=4)
        await asyncio.wait_for(node.task, DEADLINE_S)
        assert await nodes(made) == {}

    run(story)


def test_a_node_whose_engine_died_does_not_wait_for_its_work(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        node = await made.start("a", cloud=cloud(tmp_path))
        path = engine(tmp_path, slots_free=0)
        await shown(made, is_ready)
        path.unlink()
        node.stop.set()
        await asyncio.wait_for(node.task, DRAIN_MS_MAX / 2_000)

    run(story)


def test_a_node_stops_though_nobody_hears_that_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.agent.node._GOODBYE_S", 0.1)

    async def story(made: World) -> None:
        node = await made.start("a", cloud=cloud(tmp_path))
        made.wire.cut()
        await until(lambda: len(node.remarks) == 1)
        node.stop.set()
        await asyncio.wait_for(node.task, DEADLINE_S)
        assert "leaving without a goodbye" in node.remarks[-1]

    run(story)


def test_a_node_of_the_cloud_at_a_coordinator_of_a_home_ends_with_the_variable(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        node = made.begin("a", cloud=cloud(tmp_path))
        with pytest.raises(CloudProfileOff, match="ORCHESTRATORD_CLOUD_PROFILE"):
            await asyncio.wait_for(node.task, DEADLINE_S)
        made.nodes.remove(node)

    async def told() -> None:
        async with world() as made:
            await story(made)

    asyncio.run(told())


def test_a_node_that_is_not_to_register_joins_as_at_home_and_still_speaks_of_its_pools(tmp_path: Path) -> None:
    async def story(made: World) -> None:
        await made.start("a", cloud=cloud(tmp_path, registers=False))
        engine(tmp_path)
        node = await shown(made, is_ready)
        assert node.address == ""

    run(story)


def test_a_node_with_a_wrong_token_ends_and_one_whose_token_was_changed_finds_the_new_one(tmp_path: Path) -> None:
    async def told() -> None:
        async with world(home=False) as made:
            coordinator = await found_coordinator(seed=3, home=False, tokens=("old",))
            made.wire.app = coordinator.app
            stranger = made.begin("b", cloud=cloud(tmp_path))
            with pytest.raises(MissingToken):
                await asyncio.wait_for(stranger.task, DEADLINE_S)
            made.nodes.remove(stranger)
            made.token = "old"
            node = await made.start("a", cloud=cloud(tmp_path))
            made.token = "new"
            coordinator.gate.accept(("new",))
            made.questions.use_token("new")
            try:
                engine(tmp_path)
                await shown(made, is_ready)
                assert not node.task.done()
                await made.end()
            finally:
                await coordinator.stop()

    asyncio.run(told())


def test_at_home_a_node_has_none_of_this() -> None:
    assert read_cloud({}, "a") is None


def test_the_seed_s_variables_are_read() -> None:
    settings = read_cloud(CLOUD, "a")
    assert settings is not None
    assert (settings.machine_id, settings.pool_ids, settings.heartbeat_s) == ("a", ("pool-0",), 10)
    assert (settings.runtime_dir, settings.watch_interval_ms) == (Path(".runtime/engines"), 1_000)
    named = read_cloud({**CLOUD, "POOL_MANAGERD_POOLS": "p, q", "POOL_MANAGERD_MACHINE_ID": "m"}, "a")
    assert named is not None
    assert (named.pool_ids, named.machine_id) == (("p", "q"), "m")


@pytest.mark.parametrize(
    ("address", "bind", "told"),
    [
        ("http://a:1/", "", "http://a:1"),
        ("a:1", "", "http://a:1"),
        ("", "10.0.0.7:9200", "http://10.0.0.7:9200"),
        ("https://a", "0.0.0.0:9200", "https://a"),
    ],
)
def test_where_others_reach_the_engines(address: str, bind: str, told: str) -> None:
    settings = read_cloud({**CLOUD, "POOL_MANAGERD_ADDRESS": address, "POOL_MANAGERD_ADDR": bind}, "a")
    assert settings is not None
    assert settings.address == told


@pytest.mark.parametrize(
    ("changed", "variable"),
    [
        ({"POOL_MANAGERD_ADDRESS": ""}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_ADDRESS": "ftp://a"}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_ADDRESS": "http://a:99999"}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_ADDRESS": "http://a:0"}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_ADDRESS": "http://[a"}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_ADDRESS": "", "POOL_MANAGERD_ADDR": "0.0.0.0:9200"}, "POOL_MANAGERD_ADDRESS"),
        ({"POOL_MANAGERD_POOLS": "p,p"}, "POOL_MANAGERD_POOLS"),
        ({"POOL_MANAGERD_POOLS": "a b"}, "POOL_MANAGERD_POOLS"),
        ({"POOL_MANAGERD_CLOUD_PROFILE": "perhaps"}, "POOL_MANAGERD_CLOUD_PROFILE"),
        ({"HEARTBEAT_INTERVAL_SECS": "0"}, "HEARTBEAT_INTERVAL_SECS"),
        ({"WATCH_INTERVAL_MS": "x"}, "WATCH_INTERVAL_MS"),
    ],
)
def test_a_wrong_setting_of_a_node_is_named(changed: dict[str, str], variable: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        read_cloud({**CLOUD, **changed}, "a")
    assert refusal.value.variable == variable


def test_a_machine_without_a_name_is_refused_and_not_called_unknown() -> None:
    for hostname in ("", "unknown-node"):
        with pytest.raises(Misconfigured, match="POOL_MANAGERD_NODE_ID"):
            name_of({}, None, hostname)
    assert name_of({"POOL_MANAGERD_NODE_ID": "gpu-1"}, None, "host") == "gpu-1"
    assert name_of({"POOL_MANAGERD_NODE_ID": "gpu-1"}, "flag", "host") == "flag"


def test_where_the_coordinator_is_has_one_answer() -> None:
    assert coordinator_of({"ORCHESTRATORD_URL": "http://a:1"}, None)["WEFT_COORDINATOR"] == "http://a:1"
    with pytest.raises(Misconfigured, match="WEFT_COORDINATOR=http://b"):
        coordinator_of({"ORCHESTRATORD_URL": "http://a", "WEFT_COORDINATOR": "http://b"}, None)
    with pytest.raises(Misconfigured, match="ORCHESTRATORD_URL"):
        coordinator_of(CLOUD, None)
    with pytest.raises(Misconfigured, match="ORCHESTRATORD_URL is not a URL"):
        coordinator_of({"ORCHESTRATORD_URL": "http://a:99999"}, None)


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, given: dict[str, str]) -> None:
        super().__init__(given)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)


# The node seed's variables, as its specification lists them, and who is to read each.
COORDINATOR_VARIABLES = {
    "ORCHD_ADDR",
    "ORCHESTRATORD_CLOUD_PROFILE",
    "ORCHESTRATORD_NODE_TIMEOUT_MS",
    "ORCHESTRATORD_STALE_CHECK_INTERVAL_SECS",
    "ORCHESTRATORD_PLACEMENT_STRATEGY",
    "ORCHD_ADMISSION_CAPACITY",
    "ORCHD_ADMISSION_POLICY",
    "ORCHD_RUNTIME_DIR",
    "ORCHD_HANDOFF_WATCH_INTERVAL_MS",
    "LLORCH_API_TOKEN",
}
NODE_VARIABLES = {
    "POOL_MANAGERD_CLOUD_PROFILE",
    "POOL_MANAGERD_ADDR",
    "POOL_MANAGERD_ADDRESS",
    "ORCHESTRATORD_URL",
    "POOL_MANAGERD_NODE_ID",
    "POOL_MANAGERD_MACHINE_ID",
    "POOL_MANAGERD_POOLS",
    "HEARTBEAT_INTERVAL_SECS",
    "ORCHESTRATORD_REGISTER_ON_STARTUP",
    "POOL_MANAGERD_RUNTIME_DIR",
    "WATCH_INTERVAL_MS",
}


def test_every_variable_of_the_node_seed_is_read_under_its_own_name_and_documented(tmp_path: Path) -> None:
    node = Asked(
        {
            "POOL_MANAGERD_CLOUD_PROFILE": "true",
            "POOL_MANAGERD_ADDR": "10.0.0.1:9200",
            "ORCHESTRATORD_URL": "http://127.0.0.1:1",
            "WEFT_DATA_DIR": str(tmp_path),
        }
    )
    machine = MachineMemory(total_bytes=1 << 30, available_bytes=1 << 30)
    read = read_settings(node, hostname="box", cpu_count=1, memory=machine, objects="none")
    assert read.url == "http://127.0.0.1:1"
    assert node.names >= NODE_VARIABLES
    coordinator = Asked({"WEFT_DATA_DIR": str(tmp_path), "HEARTBEAT_INTERVAL_SECS": "1"})
    read_coordinator_settings(coordinator)
    assert coordinator.names >= COORDINATOR_VARIABLES
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert [name for name in sorted(COORDINATOR_VARIABLES | NODE_VARIABLES) if f"`{name}`" not in page] == []
