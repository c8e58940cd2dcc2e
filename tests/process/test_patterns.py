"""The pager seed's workload between processes: sequential, edges, random, strided, four threads at once."""

import numpy
import pytest

from tests.process.conftest import DEADLINE_S, MIB, Pool

pytestmark = pytest.mark.process


def test_every_pattern_of_the_seeds_workload_finds_every_byte(pool: Pool) -> None:
    offsets = numpy.arange(16 * MIB)
    pool.filled("patterned", ((offsets * 31 + offsets // 4096) % 251).astype("u1").tobytes())

    reader = pool.run("patterns", "patterned")

    assert reader.wait(2 * DEADLINE_S) == 0, reader.lines
    assert reader.lines == [f"{name} ok" for name in ("sequential", "edges", "scattered", "strided", "threads")]
