"""The defects of the original coordinator, one by one, that must not come back."""

from pathlib import Path

from tests.worlds import Door, Lender, run, seed_node, seed_rdma, seed_tcp


def test_removing_a_node_removes_its_endpoint() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0, endpoint=seed_tcp())]})
        await door.ok("DELETE", "/nodes/0")
        assert (await door.ok("GET", "/endpoints"))["endpoints"] == {}
        await door.ok("POST", "/nodes", seed_node(0))
        assert (await door("GET", "/nodes/0/endpoint")).status_code == 404

    run(story)


def test_a_peer_notices_the_upgrade_from_tcp_to_rdma() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "0")
        await door.found(lender)
        before = await lender.beat()
        first = await door.ok("GET", "/nodes/0/endpoint")
        await door.ok("POST", "/nodes/0/endpoint", seed_rdma())
        second, after = await door.ok("GET", "/nodes/0/endpoint"), await lender.beat()
        assert second["version"] == first["version"] + 1
        assert after["endpoints_version"] > before["endpoints_version"]
        assert after["generation"] > before["generation"]

    run(story)


def test_a_node_that_falls_silent_is_failed_and_is_back_by_beating() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "0")
        await door.found(lender)
        door.clock.advance(30_001)
        await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "failed"
        assert (await door.ok("GET", "/metrics"))["active_nodes"] == 0
        await lender.beat()
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "active"

    run(story)


def test_a_node_nobody_promised_beats_for_is_never_failed() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
        door.clock.advance(3_600_000)
        await door.coordinator.sweep.look()
        assert (await door.ok("GET", "/cluster"))["active_nodes"] == 1

    run(story)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    async def before(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0, endpoint=seed_tcp())]})

    async def after(door: Door) -> None:
        assert (await door.ok("GET", "/cluster"))["name"] == "c"
        assert (await door.ok("GET", "/nodes/0/endpoint"))["tcp_addr"] == "192.168.1.10"

    run(before, tmp_path)
    run(after, tmp_path)


def test_a_transport_without_an_address_is_not_accepted() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0)]})
        assert (await door("POST", "/nodes/0/endpoint", {"transport_type": "tcp"})).status_code == 422

    run(story)


def test_no_cluster_and_no_node_is_made_behind_anybody_s_back() -> None:
    async def story(door: Door) -> None:
        assert (await door("POST", "/nodes/0/endpoint", seed_tcp())).status_code == 404
        assert (await door("GET", "/cluster")).status_code == 404

    run(story)


def test_without_a_cluster_the_endpoint_list_is_not_an_empty_one() -> None:
    async def story(door: Door) -> None:
        assert (await door("GET", "/endpoints")).status_code == 404

    run(story)
