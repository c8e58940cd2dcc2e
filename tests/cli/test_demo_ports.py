"""Two demos at once, and the ports their nodes come back at."""

import os

import pytest

from weft.cli.demo.ports import BLOCK_PORTS, PortBlock
from weft.cli.failure import CommandFailed

# Another range for another run of these tests beside this one.
LOWEST = 1_025 + os.getpid() % 2_000 * 30
HIGHEST = LOWEST + 2 * BLOCK_PORTS - 1


def test_two_demos_share_no_port_and_a_third_is_told_that_none_is_left() -> None:
    first, second = PortBlock(LOWEST, HIGHEST), PortBlock(LOWEST, HIGHEST)
    try:
        assert (first.first, first.last) == (LOWEST, LOWEST + BLOCK_PORTS - 1)
        assert (second.first, second.last) == (LOWEST + BLOCK_PORTS, HIGHEST)
        with pytest.raises(CommandFailed, match=f"from {LOWEST} to {HIGHEST}; end one"):
            PortBlock(LOWEST, HIGHEST)
    finally:
        first.close()
        second.close()


def test_a_demo_that_ended_leaves_its_ports_to_the_next() -> None:
    PortBlock(LOWEST, HIGHEST).close()
    block = PortBlock(LOWEST, HIGHEST)
    try:
        assert block.first == LOWEST
        assert block.flags() == ("--port-first", str(LOWEST), "--port-last", str(LOWEST + BLOCK_PORTS - 1))
        assert block.flags(LOWEST + 3) == ("--port-first", str(LOWEST + 3), "--port-last", str(LOWEST + 3))
    finally:
        block.close()
