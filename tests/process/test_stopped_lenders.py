"""A lender that is stopped, not dead: its connection stays open and nothing answers. Every wait ends all the same."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.conftest import DEADLINE_S, MIB, Pool, content_of, first_offset_at
from weft.model.errors import PageUnavailable

pytestmark = pytest.mark.process

# A fault's own deadline is 5 s; the watchdog looks every half second.
FAULT_ENDS_S = 7.0


def thread_states(process_id: int) -> list[str]:
    """What each thread of a process does, in the kernel's one letter."""
    stats = [path.read_text() for path in Path(f"/proc/{process_id}/task").glob("*/stat")]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


@contextmanager
def stopped(pool: Pool, node_id: str) -> Iterator[None]:
    """The node does not run meanwhile, and goes on after."""
    process_id = pool.nodes[node_id].child.pid
    os.kill(process_id, signal.SIGSTOP)
    # A thread that runs on another CPU goes on until its next interrupt, and may answer until then.
    end = time.monotonic() + DEADLINE_S
    while any(state != "T" for state in thread_states(process_id)):
        assert time.monotonic() < end, "the node does not stop"
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def test_touches_of_a_stopped_lender_end_by_their_deadline_with_a_signal_and_a_reason(pool: Pool) -> None:
    region = pool.filled("sealed", content_of(8 * MIB))
    offset = first_offset_at(region, "b")
    child = pool.run("touch", "sealed", offset)
    child.line_with("attached", DEADLINE_S)
    with stopped(pool, "b"):
        started = time.monotonic()
        child.say("touch")
        assert child.wait(DEADLINE_S) == -signal.SIGBUS
        took_s = time.monotonic() - started
    assert took_s < FAULT_ENDS_S, f"the touch took {took_s:.1f} s to end"
    assert "node b" in child.last_line
    assert "did not answer in time" in child.last_line


def test_asking_a_stopped_lender_ends_by_the_callers_deadline_and_works_again_after(pool: Pool) -> None:
    content = content_of(8 * MIB)
    region = pool.filled("sealed", content)
    lost, kept = first_offset_at(region, "b"), first_offset_at(region, "a")
    with region.attach("read") as memory:
        with stopped(pool, "b"):
            started = time.monotonic()
            with pytest.raises(PageUnavailable):
                memory.prefetch(lost, 4096, timeout_ms=500)
            assert time.monotonic() - started < 2.0
            assert memory.read(kept, 4096) == content[kept : kept + 4096]
        assert memory.read(lost, 4096) == content[lost : lost + 4096]
