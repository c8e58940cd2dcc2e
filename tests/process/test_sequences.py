"""Any sequence of writing, touching, flushing and letting go leaves at home what was last flushed, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.process.conftest import MIB, Pool, content_of

pytestmark = pytest.mark.process

SIZE_BYTES = 5 * MIB + 1234
ENDS = ("detach", "abandon")

_pieces = st.tuples(st.integers(0, SIZE_BYTES - 1), st.integers(1, 300_000), st.integers(0, 1000))
_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("write", "touch", "check")), _pieces),
        st.tuples(st.sampled_from(("flush", "prefetch", *ENDS)), st.just((0, 1, 0))),
    ),
    min_size=1,
    max_size=14,
)


class _AbandonedError(Exception):
    """Ends a block as a program's own failure would."""


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_what_was_flushed_is_at_home_and_what_was_not_is_not(pool: Pool, steps: list) -> None:
    home, mine = bytearray(SIZE_BYTES), bytearray(SIZE_BYTES)
    region = pool.cluster.region("sequence", size=SIZE_BYTES)
    memory = region.attach("exclusive")
    for step, (offset, length, seed) in [*steps, ("detach", (0, 1, 0))]:
        data = content_of(min(length, SIZE_BYTES - offset), str(seed))
        end = offset + len(data)
        match step:
            case "write":
                memory.write(offset, data)
                mine[offset:end] = data
            case "touch":
                with memory.buffer as buffer:
                    buffer[offset:end] = data
                mine[offset:end] = data
            case "check":
                assert memory.read(offset, len(data)) == mine[offset:end]
            case "prefetch":
                memory.prefetch()
            case "flush":
                memory.flush()
                home[:] = mine
            case "detach":
                with memory:
                    pass
                home[:] = mine
            case "abandon":
                with _abandoned(), memory:
                    raise _AbandonedError
                mine[:] = home
        if step in ENDS:
            memory = region.attach("exclusive")
    with memory:
        assert memory.read(0, SIZE_BYTES) == home
    region.seal()
    with region.attach("read") as read, read.buffer as buffer:
        assert buffer == home
    region.delete()


@contextmanager
def _abandoned() -> Iterator[None]:
    with pytest.raises(_AbandonedError):
        yield
