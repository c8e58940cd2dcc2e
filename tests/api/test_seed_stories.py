"""The three stories the endpoint seed tells, with its own request bodies."""

from tests.worlds import Door, run

TWO_NODES = {
    "name": "tcp-cluster",
    "nodes": [
        {
            "node_id": 0,
            "hostname": "node0",
            "ip_address": "192.168.1.10",
            "cpu_count": 8,
            "memory_mb": 16384,
            "status": "active",
        },
        {
            "node_id": 1,
            "hostname": "node1",
            "ip_address": "192.168.1.11",
            "cpu_count": 8,
            "memory_mb": 16384,
            "status": "active",
        },
    ],
}
RDMA = {
    "transport_type": "rdma",
    "rdma_qpn": 12345,
    "rdma_lid": 1,
    "rdma_gid": "fe80::a00:27ff:fe00:0",
    "rdma_psn": 100,
}


def test_two_nodes_find_each_other_over_tcp() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", TWO_NODES)
        for number, address in enumerate(["192.168.1.10", "192.168.1.11"]):
            body = {"transport_type": "tcp", "tcp_addr": address, "tcp_port": 50051}
            await door.ok("POST", f"/nodes/{number}/endpoint", body)
        peer = await door.ok("GET", "/nodes/1/endpoint")
        assert f"Peer at {peer['tcp_addr']}:{peer['tcp_port']}" == "Peer at 192.168.1.11:50051"

    run(story)


def test_a_node_is_upgraded_to_rdma_and_can_still_be_reached_over_tcp() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", TWO_NODES)
        tcp = {"transport_type": "tcp", "tcp_addr": "192.168.1.10", "tcp_port": 50051}
        await door.ok("POST", "/nodes/0/endpoint", tcp)
        await door.ok("POST", "/nodes/0/endpoint", RDMA)
        upgraded = await door.ok("GET", "/nodes/0/endpoint")
        assert upgraded == {**tcp, **RDMA, "version": 2}

    run(story)


def test_transports_are_mixed_in_one_cluster() -> None:
    async def story(door: Door) -> None:
        third = {**TWO_NODES["nodes"][0], "node_id": 2, "hostname": "node2"}  # type: ignore[dict-item]
        await door.ok("POST", "/cluster", {**TWO_NODES, "nodes": [*TWO_NODES["nodes"], third]})
        await door.ok("POST", "/nodes/0/endpoint", RDMA)
        for node_id in [1, 2]:
            body = {"transport_type": "tcp", "tcp_addr": f"192.168.1.{10 + node_id}", "tcp_port": 50051}
            await door.ok("POST", f"/nodes/{node_id}/endpoint", body)
        endpoints = (await door.ok("GET", "/endpoints"))["endpoints"]
        assert {node_id: one["transport_type"] for node_id, one in endpoints.items()} == {
            "0": "rdma",
            "1": "tcp",
            "2": "tcp",
        }
        assert endpoints["2"]["tcp_addr"] == "192.168.1.12"

    run(story)
