"""Imports go one way: the table in imports.toml, held against what every file says."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "weft"
TABLE = tomllib.loads((Path(__file__).parent / "imports.toml").read_text())
ROOMS: dict[str, list[str]] = TABLE["rooms"]
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a file is in: its folder under the package, or its own name."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The dotted names a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms_imported(path: Path) -> set[str]:
    own = [name.split(".") for name in imported(path) if name.split(".")[0] == "weft"]
    # `from weft import __version__` names no room: the package is itself.
    return {parts[1] for parts in own if len(parts) > 1 and not parts[1].startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, f"{room} is in no line of imports.toml"
    assert rooms_imported(path) <= {room, *ROOMS[room]}


@pytest.mark.parametrize("section", ["forbidden", "ports"])
def test_the_world_comes_in_only_where_it_may(section: str) -> None:
    modules, rooms = set(TABLE[section]["modules"]), TABLE[section]["rooms"]
    offenders = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        if room_of(path) in rooms and path.name != "__main__.py"
        for name in imported(path)
        if name.split(".")[0] in modules
    ]
    assert offenders == []


def test_nobody_imports_the_command_line_or_the_fakes() -> None:
    for room, may in ROOMS.items():
        assert not {"cli", "testing"} & set(may), room
    for one in ("coordinator", "agent", "witness"):
        assert not {"coordinator", "agent", "witness"} & set(ROOMS[one]), "they meet over HTTP"


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ROOMS):
        ready = {room for room, may in ROOMS.items() if set(may) - {"_native"} <= done} - done
        assert ready, f"a circle among {sorted(set(ROOMS) - done)}"
        done |= ready
