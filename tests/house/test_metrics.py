"""A metric that is registered is moved, and documented by its help."""

import asyncio
import re
from pathlib import Path

from tests.worlds import coordinator_door

SOURCES = Path(__file__).parents[2] / "python" / "weft" / "coordinator"


def test_every_counter_a_coordinator_registers_is_added_to() -> None:
    for path in [*SOURCES.glob("*.py"), SOURCES.parent / "serve" / "app.py"]:
        text = path.read_text()
        for name in re.findall(r"self\.(_\w+) = (?:service\.)?metrics\.counter\(", text):
            assert f"self.{name}.add(" in text, f"{path.name}: {name}"


def test_every_metric_has_a_help_and_a_unit_or_a_count_in_its_name() -> None:
    async def story() -> str:
        async with coordinator_door() as door:
            return str(door.coordinator.metrics.text())

    text = asyncio.run(story())
    names = re.findall(r"# HELP (\w+) \S", text)
    assert len(names) == len(set(names)) == len(re.findall(r"# TYPE (\w+)", text))
    for name, kind in re.findall(r"# TYPE (\w+) (\w+)", text):
        assert name.startswith(("weft_", "orchd_")), "ours, or the node seed's"
        assert name.endswith("_total") is (kind == "counter")
