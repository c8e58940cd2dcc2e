"""A lender that dies: every way of reaching its pages ends, with a reason, and none of them in zeros."""

import signal

import pytest

from tests.process.conftest import DEADLINE_S, MIB, Pool, content_of, first_offset_at
from weft.model.errors import PageUnavailable, WeftError

pytestmark = pytest.mark.process


def test_a_touched_page_of_a_killed_lender_is_a_signal_and_one_line_that_says_why(pool: Pool) -> None:
    region = pool.filled("sealed", content_of(8 * MIB))
    offset = first_offset_at(region, "b")
    child = pool.run("touch", "sealed", offset)
    child.line_with("attached", DEADLINE_S)
    pool.nodes["b"].child.kill()

    child.say("touch")

    assert child.wait(DEADLINE_S) == -signal.SIGBUS
    assert not any("byte" in line and line.startswith("byte") for line in child.lines)
    for part in ("sealed", f"{offset:#x}", "node b"):
        assert part in child.last_line, child.lines


def test_an_asked_for_page_of_a_killed_lender_is_an_exception_and_the_rest_is_there(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    lost, kept = first_offset_at(region, "b"), first_offset_at(region, "a")
    with region.attach("read") as memory:
        pool.nodes["b"].child.kill()

        with pytest.raises(PageUnavailable) as failed:
            memory.read(lost, 1, timeout_ms=2000)

        assert (failed.value.region, failed.value.offset, failed.value.node) == ("sealed", lost, "b")
        assert memory.read(kept, 4096) == content[kept : kept + 4096]


def test_a_lender_that_comes_back_holds_nothing_and_says_so(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    lost, kept = first_offset_at(region, "b"), first_offset_at(region, "a")
    with region.attach("read") as before:
        pool.nodes["b"].child.kill()
        pool.lend("b", port=pool.nodes["b"].port)

        with region.attach("read") as after:
            for memory in (before, after):
                with pytest.raises(PageUnavailable) as failed:
                    memory.read(lost, 1)
                assert failed.value.reason.startswith("extent_lost")
                assert memory.read(kept, 4096) == content[kept : kept + 4096]

    assert region.refresh().state == "damaged"
    assert region.info.lost_extents == [
        extent.index for band in region.layout.bands for extent in band.extents if extent.replicas[0].node_id == "b"
    ]


def test_touching_what_a_returned_lender_lost_is_a_signal_too(pool: Pool) -> None:
    region = pool.filled("sealed", content_of(8 * MIB))
    offset = first_offset_at(region, "b")
    pool.nodes["b"].child.kill()
    pool.lend("b", port=pool.nodes["b"].port)
    child = pool.run("touch", "sealed", offset)
    child.line_with("attached", DEADLINE_S)

    child.say("touch")

    assert child.wait(DEADLINE_S) == -signal.SIGBUS
    assert "extent" in child.last_line


def test_a_writer_is_told_that_its_flush_did_not_reach_a_killed_lender(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=8 * MIB).wait_ready()
    memory = region.attach("exclusive")
    memory.write(first_offset_at(region, "b"), b"lost")
    memory.write(first_offset_at(region, "a"), b"kept")
    pool.nodes["b"].child.kill()

    with pytest.raises(WeftError):
        memory.flush(timeout_ms=2000)
    assert not memory.detached

    memory.detach(flush=False)


def test_a_lender_that_is_told_to_end_leaves_and_names_the_regions_it_takes_along(pool: Pool) -> None:
    region = pool.filled("sealed", content_of(8 * MIB))
    node = pool.nodes["b"].child

    node.process.terminate()

    assert node.wait(DEADLINE_S) == 0
    assert any("regions that lose extents: sealed (1)" in line for line in node.lines)
    assert [member.node_id for member in pool.cluster.describe().members] == ["a"]
    assert region.refresh().state == "damaged"


def test_a_second_node_of_a_running_nodes_name_is_refused_and_harms_nothing(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    arguments = ("--name", "b", "--lend", "64MiB", "--coordinator", pool.url, "--objects", "none")
    second = pool.crew.start("second", "-m", "weft.agent", *arguments, *pool.crew.ports.flags())
    assert second.wait(DEADLINE_S) == 1
    assert "is running already" in second.last_line
    with region.attach("read") as memory:
        assert memory.read(0, len(content)) == content
    assert region.refresh().state == "ready"
