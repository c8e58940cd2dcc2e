"""The examples, run as their first lines say, and the commands beside a real cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.process.conftest import DEADLINE_S, Pool, content_of
from weft.cli.demo.cluster import COORDINATOR, OWN_SETTINGS, start_coordinator
from weft.cli.demo.crew import Crew
from weft.model.errors import AttachmentConflict

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_array_lives_on_the_machines_that_lend(pool: Pool) -> None:
    child = pool.crew.start("example", str(EXAMPLES / "remote_array.py"), environment={COORDINATOR: pool.url})

    assert child.wait(DEADLINE_S) == 0, child.lines
    assert child.lines[0] == f"{1234567**2} is the square of 1234567"
    assert pool.cluster.regions() == []


def test_two_pagers_share_a_page() -> None:
    with Crew({"WEFT_SECRET": "a secret for tests"}, without=OWN_SETTINGS) as crew:
        url = start_coordinator(crew)
        child = crew.start("example", str(EXAMPLES / "pager_two_nodes.py"), environment={COORDINATOR: url})

        assert child.wait(DEADLINE_S) == 0, child.lines
        assert child.lines[0] == "hello from page 3 of node 1"
        assert child.lines[-1] == "page 3 belongs to Remote(node_id=1)"


def test_blocks_of_a_cache_move_between_two_processes() -> None:
    with Crew({"WEFT_SECRET": "a secret for tests"}, without=OWN_SETTINGS) as crew:
        child = crew.start("example", str(EXAMPLES / "kv_blocks.py"))

        assert child.wait(DEADLINE_S) == 0, child.lines
        assert child.lines[0] == "decode fetched 24 blocks, 196608 bytes, by ipc"


def test_a_torch_tensor_is_read_in_one_process_and_sent_back_by_it() -> None:
    pytest.importorskip("torch", reason="torch is not installed; tests/dataplane/test_tensors.py takes the same path")
    with Crew({"WEFT_SECRET": "a secret for tests"}, without=OWN_SETTINGS) as crew:
        child = crew.start("example", str(EXAMPLES / "torch_tensor.py"))

        assert child.wait(2 * DEADLINE_S) == 0, child.lines
        assert child.lines == [
            "worker read weights of 1048576 bytes, by ipc",
            "keeper received a gradient of 2097152 bytes from worker",
        ]


def test_without_torch_its_example_says_what_it_needs() -> None:
    path = str(EXAMPLES / "torch_tensor.py")
    program = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=DEADLINE_S)
    assert told.returncode == 1
    assert "pip install torch" in told.stderr
    assert told.stderr.count("\n") == 1


def command(
    pool: Pool, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "weft.cli", *arguments, "--coordinator", pool.url],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_trial_of_a_node_moves_every_size_and_leaves_nothing_behind(pool: Pool) -> None:
    secret = {"WEFT_SECRET": pool.secret}
    told = command(pool, "bench", "transfer", "--to", "b", "--json", environment=secret)
    assert told.returncode == 0, told.stderr
    figures = json.loads(told.stdout)
    assert {figure["operation"] for figure in figures} == {"read", "write"}
    assert [figure["size_bytes"] for figure in figures[:5]] == [8, 64, 512, 4096, 32768]
    assert {figure["transport"] for figure in figures} <= {"ipc", "rdma", "tcp"}
    assert all(figure["p50_us"] <= figure["p99_us"] for figure in figures)
    assert pool.cluster.regions() == []
    refused = command(pool, "bench", "transfer", "--to", "nobody", environment=secret)
    assert refused.returncode == 1
    assert "no node 'nobody' is in the cluster; those that are: a, b" in refused.stderr


def test_a_trial_of_a_node_that_is_dead_says_so_at_once_and_plans_nothing(pool: Pool) -> None:
    pool.nodes["b"].child.kill()
    told = command(pool, "bench", "transfer", "--to", "b", environment={"WEFT_SECRET": pool.secret})
    assert told.returncode == 1
    assert "node b does not answer at " in told.stderr
    assert pool.cluster.regions() == []


def test_a_region_is_created_listed_and_deleted_from_the_command_line(pool: Pool) -> None:
    made = command(pool, "region", "create", "scratch", "8MiB")
    assert (made.returncode, made.stdout) == (0, "region scratch, 8.0 MiB over a, b, is ready\n")

    listed = json.loads(command(pool, "region", "list", "--json").stdout)
    assert [region["name"] for region in listed["regions"]] == ["scratch"]

    with pool.cluster.region("scratch").attach("exclusive"):
        refused = command(pool, "region", "delete", "scratch")
        assert refused.returncode == 1
        assert refused.stderr.endswith("; --force closes the attachments first\n")
        assert command(pool, "region", "delete", "scratch", "--force").returncode == 0


def test_a_region_whose_holder_is_gone_is_detached_from_the_command_line(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size="8MiB")
    pool.cluster.ask(pool.cluster.coordinator.attach("scratch", "exclusive", "gone"))
    with pytest.raises(AttachmentConflict, match="weft region detach scratch"):
        region.attach("exclusive")
    wrong = command(pool, "region", "detach", "scratch", "--holder", "nobody")
    assert (wrong.returncode, wrong.stderr) == (1, "weft: region scratch is not attached by nobody; it is by gone\n")

    assert command(pool, "region", "detach", "scratch").stdout == "region scratch: closed exclusive by gone\n"
    assert command(pool, "region", "detach", "scratch").stdout == "region scratch is not attached\n"
    with region.attach("exclusive"):
        pass


def test_status_shows_nodes_and_regions(pool: Pool) -> None:
    pool.filled("sealed", content_of(1 << 20))

    shown = json.loads(command(pool, "status", "--json").stdout)
    assert [member["node_id"] for member in shown["cluster"]["members"]] == ["a", "b"]
    assert shown["endpoints"]["a"]["tcp_port"] == pool.nodes["a"].port
    assert command(pool, "status").stdout.count("64.0 MiB") >= 2


def test_too_large_a_region_is_one_sentence_with_both_numbers(pool: Pool) -> None:
    refused = command(pool, "region", "create", "huge", "1TiB")

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "weft node --lend" in refused.stderr
