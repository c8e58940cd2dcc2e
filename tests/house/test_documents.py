"""What the documents promise is there: links lead somewhere, commands exist, and the figures are filled in."""

import re
from pathlib import Path

import pytest

from weft.cli.__main__ import weft as weft_command

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
SHELL_LINE = re.compile(r"^(make|weft) ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_every_command_the_readme_shows_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = SHELL_LINE.findall((ROOT / "README.md").read_text())
    assert len(shown) >= 6, "README no longer shows its commands"
    for program, command in shown:
        known = targets if program == "make" else set(weft_command.commands)
        assert command in known, f"README shows `{program} {command}`, which does not exist"


def test_no_placeholder_is_left() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"\b(TODO|FIXME|BENCH_TABLE|DEMO_OUTPUT)\b", document.read_text()), document.name
