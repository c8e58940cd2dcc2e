"""What a coordinator takes the time for when it starts, and what not."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worlds import World, coordinator_door, node
from weft.ledger import SqliteJournal
from weft.model.commands import DrainNode, ResumeNode
from weft.model.ids import NodeId, Position

PROGRAM = """
import os, sys
import weft.coordinator.__main__
from pathlib import Path
from weft.config import read_layer_settings
from weft.coordinator.layers import open_layers
from weft.receipts import Domain, SigningKey
key = SigningKey.from_secret(b"s" * 32, Domain.PUBLISHER)
layers = open_layers(read_layer_settings(dict(pair.split("=") for pair in sys.argv[1:])), None, None, key, Path("."))
print(len(layers), "httpx" in sys.modules)
"""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ((), "0 False"),
        (("USE_MOCK_DA=true",), "1 False"),
        (
            ("USE_MOCK_DA=true", "ENABLE_FALLBACK=true", "FALLBACK_DA_TYPE=emergency", "EMERGENCY_DA_URL=http://a:1"),
            "2 True",
        ),
    ],
)
def test_a_coordinator_whose_layers_need_no_network_imports_no_http_client(env: tuple[str, ...], said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *env], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, said), ran.stderr


EVENTS = 100_000
RESTART_S_MAX = 2.0


def test_a_log_of_a_hundred_thousand_events_is_lived_through_in_less_than_two_seconds(tmp_path: Path) -> None:
    # Nodes that are drained and resumed, a thousand events a batch, as a busy coordinator writes them.
    names = [f"n{number}" for number in range(500)]
    world = World.founded()
    world.batch(*(node(name) for name in names))
    turn = 0
    while (world.state.publishers.get("test") or 0) < EVENTS:
        command = (DrainNode, ResumeNode)[turn % 2]
        world.batch(*(command(node_id=NodeId(name)) for name in names))
        turn += 1

    async def story() -> float:
        journal = SqliteJournal(tmp_path)
        for place, sealed in enumerate(world.log):
            await journal.append(sealed, Position(place))
        await journal.close()
        began_s = time.process_time()
        async with coordinator_door(SqliteJournal(tmp_path)) as door:
            took_s = time.process_time() - began_s
            assert door.coordinator.writer.state.marks.sequence >= EVENTS
        return took_s

    # Processor time: the machine has other work while tests run.
    assert asyncio.run(story()) < RESTART_S_MAX
