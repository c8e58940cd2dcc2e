"""The seed's pager in two processes: pages owned here, pages owned there, and peers that come late."""

import httpx
import pytest

from tests.process.conftest import DEADLINE_S, Pool
from weft.cli.demo.crew import Child

pytestmark = pytest.mark.process


def register(pool: Pool, *node_ids: int) -> None:
    """The cluster door's nodes, as the seed registers them."""
    for node_id in node_ids:
        body = {"node_id": node_id, "hostname": f"node{node_id}", "ip_address": "127.0.0.1", "cpu_count": 2}
        answer = httpx.post(f"{pool.url}/nodes", json={**body, "memory_mb": 1024, "status": "active"})
        assert answer.status_code == 200, answer.text


def started(pool: Pool, node_id: int) -> Child:
    child = pool.run("pager", node_id, 2, pool.url)
    child.line_with(f"pager {node_id} up", DEADLINE_S)
    return child


def answer(child: Child, line: str, part: str) -> str:
    child.say(line)
    return child.line_with(part, DEADLINE_S)


def test_a_page_another_node_owns_comes_from_there(pool: Pool) -> None:
    register(pool, 0, 1)
    first, second = started(pool, 0), started(pool, 1)
    assert answer(second, "own 0 8", "owned") == "owned Local()"
    assert answer(first, "peers 1", "peers") == "peers [1]"

    assert answer(first, "remote 5 1", "remote") == "remote Remote(node_id=1)"
    assert answer(first, "read 5", "bytes") == "bytes 101 101"
    assert answer(first, "read 9", "bytes") == "bytes 0 0"
    assert answer(first, "stats", "stats") == "stats 1 1 0.5"

    for child in (first, second):
        child.say("stop")
        assert child.line_with("stopped", DEADLINE_S)
        assert child.wait(DEADLINE_S) == 0


def test_a_node_that_is_not_registered_cannot_start_a_pager(pool: Pool) -> None:
    child = pool.run("pager", 0, 2, pool.url)

    assert child.wait(DEADLINE_S) == 1
    assert "NodeNotFound" in child.last_line
