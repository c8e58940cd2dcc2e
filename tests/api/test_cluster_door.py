"""The endpoint seed's coordinator, case by case, in its strict mode: what it asked for, and what it got wrong."""

from typing import Any

import pytest

from tests.worlds import Door, Lender, run, seed_node, seed_rdma, seed_tcp

CLUSTER = {"name": "test-cluster", "nodes": [seed_node(0)]}
ENDPOINT_FIELDS = ["transport_type", "tcp_addr", "tcp_port", "rdma_qpn", "rdma_lid", "rdma_gid", "rdma_psn"]


def refused(door_answer: Any, status: int, code: str) -> str:
    """Check a refusal in the cluster family's envelope, and give its sentence."""
    body = door_answer.json()
    assert (door_answer.status_code, body["code"], set(body)) == (status, code, {"detail", "code"}), body
    return str(body["detail"])


def test_health_needs_no_cluster() -> None:
    async def story(door: Door) -> None:
        health = await door.ok("GET", "/health")
        assert (health["status"], health["cluster_active"]) == ("healthy", False)
        await door.ok("POST", "/cluster", CLUSTER)
        assert (await door.ok("GET", "/health"))["cluster_active"] is True

    run(story)


def test_a_cluster_is_created() -> None:
    async def story(door: Door) -> None:
        answer = await door("POST", "/cluster", CLUSTER)
        assert answer.status_code == 201
        assert answer.json() == {
            "status": "created",
            "cluster_name": "test-cluster",
            "nodes": 1,
            "total_memory_mb": 8192,
            "total_vcpus": 4,
        }

    run(story)


def test_a_second_cluster_is_refused() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        refused(await door("POST", "/cluster", {"name": "test-cluster-2"}), 400, "CLUSTER_EXISTS")

    run(story)


def test_the_cluster_is_shown_with_its_totals() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        cluster = await door.ok("GET", "/cluster")
        assert cluster["name"] == "test-cluster"
        assert (cluster["nodes"], cluster["active_nodes"]) == (1, 1)
        assert (cluster["total_memory_mb"], cluster["total_vcpus"]) == (8192, 4)
        assert cluster["vm_running"] is False
        assert cluster["created_at"] == "2023-11-14T22:13:20.000Z"
        assert len(cluster["cluster_id"]) == 32

    run(story)


def test_totals_count_active_nodes_only() -> None:
    async def story(door: Door) -> None:
        nodes = [
            seed_node(number, status=status) for number, status in enumerate(["active", "joining", "leaving", "failed"])
        ]
        created = await door.ok("POST", "/cluster", {"name": "c", "nodes": nodes})
        assert (created["nodes"], created["total_memory_mb"], created["total_vcpus"]) == (4, 8192, 4)
        cluster = await door.ok("GET", "/cluster")
        assert (cluster["nodes"], cluster["active_nodes"]) == (4, 1)
        assert [member["status"] for member in cluster["members"]] == ["active", "joining", "leaving", "failed"]

    run(story)


def test_a_node_is_joining_unless_it_says_otherwise() -> None:
    async def story(door: Door) -> None:
        body = seed_node(0)
        del body["status"]
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [body]})
        assert (await door.ok("GET", "/cluster"))["members"][0]["status"] == "joining"

    run(story)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/cluster", None),
        ("DELETE", "/cluster", None),
        ("POST", "/nodes", seed_node(1)),
        ("DELETE", "/nodes/1", None),
        ("POST", "/nodes/0/endpoint", seed_tcp()),
        ("GET", "/nodes/0/endpoint", None),
        ("GET", "/endpoints", None),
        ("GET", "/metrics", None),
        ("GET", "/pages/0x1000", None),
    ],
)
def test_without_a_cluster_there_is_nothing(method: str, path: str, body: Any) -> None:
    async def story(door: Door) -> None:
        refused(await door(method, path, body), 404, "CLUSTER_NOT_FOUND")

    run(story)


def test_a_cluster_is_destroyed() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        assert await door.ok("DELETE", "/cluster") == {"status": "destroyed", "cluster_name": "test-cluster"}
        refused(await door("GET", "/cluster"), 404, "CLUSTER_NOT_FOUND")
        await door.ok("POST", "/cluster", CLUSTER)

    run(story)


def test_a_node_joins() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        answer = await door("POST", "/nodes", seed_node(1))
        assert answer.status_code == 200
        assert answer.json() == {"status": "joined", "node_id": 1, "cluster_nodes": 2}

    run(story)


def test_a_node_that_is_there_cannot_join() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        refused(await door("POST", "/nodes", seed_node(0)), 400, "NODE_EXISTS")
        refused(await door("POST", "/nodes", seed_node("0")), 400, "NODE_EXISTS")

    run(story)


def test_a_node_is_removed() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0), seed_node(1)]})
        assert await door.ok("DELETE", "/nodes/1") == {"status": "removed", "node_id": 1, "remaining_nodes": 1}
        refused(await door("DELETE", "/nodes/1"), 404, "NODE_NOT_FOUND")
        refused(await door("DELETE", "/nodes/999"), 404, "NODE_NOT_FOUND")

    run(story)


def test_a_node_may_have_a_name_instead_of_a_number() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        assert (await door.ok("POST", "/nodes", seed_node("rack-1.a")))["node_id"] == "rack-1.a"
        assert [member["node_id"] for member in (await door.ok("GET", "/cluster"))["members"]] == [0, "rack-1.a"]

    run(story)


def test_a_node_may_bring_its_endpoint() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "nodes": [seed_node(0, endpoint=seed_tcp())]})
        assert (await door.ok("GET", "/nodes/0/endpoint"))["tcp_port"] == 50051

    run(story)


@pytest.mark.parametrize("body", [seed_tcp(), seed_rdma()])
def test_an_endpoint_is_registered_and_shown(body: dict[str, Any]) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        answer = await door("POST", "/nodes/0/endpoint", body)
        assert answer.status_code == 201
        assert answer.json() == {"status": "registered", "node_id": 0, "transport_type": body["transport_type"]}
        shown = await door.ok("GET", "/nodes/0/endpoint")
        assert list(shown) == [*ENDPOINT_FIELDS, "version"]
        assert {name: value for name, value in shown.items() if value is not None} == {**body, "version": 1}

    run(story)


def test_a_node_without_an_endpoint_says_so() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        sentence = refused(await door("GET", "/nodes/0/endpoint"), 404, "ENDPOINT_NOT_FOUND")
        assert sentence == "No endpoint registered for node 0"
        refused(await door("GET", "/nodes/9/endpoint"), 404, "NODE_NOT_FOUND")

    run(story)


def test_an_endpoint_of_an_unknown_node_creates_nothing() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        refused(await door("POST", "/nodes/7/endpoint", seed_tcp()), 404, "NODE_NOT_FOUND")
        assert (await door.ok("GET", "/cluster"))["nodes"] == 1

    run(story)


def test_all_endpoints_are_listed_by_node() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "my-cluster", "nodes": [seed_node(0), seed_node(1), seed_node(2)]})
        assert await door.ok("GET", "/endpoints") == {"cluster_name": "my-cluster", "endpoints": {}}
        await door.ok("POST", "/nodes/1/endpoint", seed_tcp("192.168.1.11"))
        await door.ok("POST", "/nodes/0/endpoint", seed_tcp())
        listed = await door.ok("GET", "/endpoints")
        assert {node_id: one["tcp_addr"] for node_id, one in listed["endpoints"].items()} == {
            "0": "192.168.1.10",
            "1": "192.168.1.11",
        }

    run(story)


def test_metrics_are_never_constants() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "0")
        await door.found(lender)
        quiet = await door.ok("GET", "/metrics")
        assert quiet == {
            "cluster_name": "c",
            "total_nodes": 1,
            "active_nodes": 1,
            "total_memory_mb": 8192,
            "total_vcpus": 4,
            "remote_fault_rate": 0.0,
            "remote_miss_ratio": 0.0,
            "avg_fault_latency_us": 0.0,
        }
        lender.counters = {"local_faults": 30, "remote_faults": 10, "remote_fault_us_sum": 1200}
        door.clock.advance(1000)
        await lender.beat()
        busy = await door.ok("GET", "/metrics")
        assert (busy["remote_fault_rate"], busy["remote_miss_ratio"], busy["avg_fault_latency_us"]) == (
            10.0,
            0.25,
            120.0,
        )

    run(story)


def test_a_rate_may_come_with_the_window_it_covers() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "0")
        await door.found(lender)
        lender.counters = {"remote_faults": 10, "window_seconds": 4}
        await lender.beat()
        assert (await door.ok("GET", "/metrics"))["remote_fault_rate"] == 2.5

    run(story)


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/openmetrics-text; version=1.0.0", "text/plain;q=0.5, */*"]
)
def test_metrics_are_prometheus_text_for_who_asks_for_it(accept: str) -> None:
    async def story(door: Door) -> None:
        answer = await door("GET", "/metrics", accept=accept)
        assert answer.headers["content-type"].startswith("text/plain")
        assert "# TYPE weft_log_position gauge\nweft_log_position 1\n" in answer.text

    run(story)


@pytest.mark.parametrize(("given", "spelled"), [("0x1000", "0x1000"), ("4096", "0x1000"), ("0X1f", "0x1f")])
def test_a_page_address_is_hexadecimal_or_decimal(given: str, spelled: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        assert await door.ok("GET", f"/pages/{given}") == {"gpa": spelled, "region": None, "owner_node": None}

    run(story)


@pytest.mark.parametrize("given", ["invalid", "0xzz", "-1", "1.5", str(2**64)])
def test_a_page_address_that_is_neither_is_refused(given: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        refused(await door("GET", f"/pages/{given}"), 400, "BAD_ADDRESS")

    run(story)


def test_the_owner_of_a_page_follows_from_its_region() -> None:
    async def story(door: Door) -> None:
        lenders = [Lender(door, "0"), Lender(door, "1")]
        await door.found(*lenders)
        await door.ready_region("r", 4, *lenders)
        owners = [(await door.ok("GET", f"/pages/{stripe * 2097152}?region=r"))["owner_node"] for stripe in range(5)]
        assert owners == [0, 1, 0, 1, None]

    run(story)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"transport_type": "carrier pigeon"}, "transport_type"),
        ({"tcp_addr": None}, "tcp_addr"),
        ({"tcp_addr": ""}, "tcp_addr"),
        ({"tcp_port": None}, "tcp_port"),
        ({"tcp_port": 0}, "tcp_port"),
        ({"tcp_port": 65536}, "tcp_port"),
        ({"tcp_port": "50051"}, "tcp_port"),
        ({**seed_rdma(), "rdma_qpn": None}, "rdma_qpn"),
        ({**seed_rdma(), "rdma_lid": None}, "rdma_lid"),
        ({**seed_rdma(), "rdma_gid": None}, "rdma_gid"),
        ({**seed_rdma(), "rdma_psn": None}, "rdma_psn"),
        ({**seed_rdma(), "rdma_qpn": 2**24}, "rdma_qpn"),
        ({**seed_rdma(), "rdma_psn": 2**24}, "rdma_psn"),
        ({**seed_rdma(), "rdma_lid": 2**16}, "rdma_lid"),
        ({**seed_rdma(), "rdma_gid": "fe80"}, "rdma_gid"),
        ({**seed_rdma(), "rdma_gid": "1.2.3.4"}, "rdma_gid"),
    ],
)
def test_an_endpoint_with_a_hole_in_it_is_refused(changes: dict[str, Any], field: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        answer = await door("POST", "/nodes/0/endpoint", {**seed_tcp(), **changes})
        assert field in refused(answer, 422, "INVALID_FIELD")
        refused(await door("GET", "/nodes/0/endpoint"), 404, "ENDPOINT_NOT_FOUND")

    run(story)


@pytest.mark.parametrize("gid", ["fe800000000000000a0027fffe000000", "0xfe800000000000000a0027fffe000000"])
def test_the_gid_of_the_seed_s_pager_is_the_gid_of_the_seed_s_example(gid: str) -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", CLUSTER)
        await door.ok("POST", "/nodes/0/endpoint", {**seed_rdma(), "rdma_gid": gid})
        assert (await door.ok("GET", "/nodes/0/endpoint"))["rdma_gid"] == "fe80::a00:27ff:fe00:0"

    run(story)


def test_fields_the_seed_does_not_know_are_ignored() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c", "colour": "blue", "nodes": [seed_node(0, rdma_gid="fe80::1")]})

    run(story)
