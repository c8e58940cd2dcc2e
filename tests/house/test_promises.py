"""Each promise of the specification has its tests, by name, and the tests that are named are there and run."""

import ast
import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "promises.toml").read_text())["row"]
# How many rows the specification has: all of D1; those of D2 up to and with "Auto re-replication", and those of layers
# that fail, from "Post/get blob" to "Health/ready", rebuilding and gaps.
COUNTS = {"D1": 33, "D2": 23}


@functools.cache
def found_in(path: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The tests a file has, by name. One that is defined twice would be collected once."""
    tree = ast.parse((ROOT / path).read_text())
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert node.name not in found, f"{path} has two tests called {node.name}"
            found[node.name] = node
    return found


def is_left_out(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a test says at its head that it does not run, or may fail."""
    words = {"skip", "skipif", "xfail"}
    return any(
        isinstance(part, ast.Attribute) and part.attr in words for one in test.decorator_list for part in ast.walk(one)
    )


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['of']}: {row['promise']}" for row in ROWS])
def test_a_promise_is_held_by_tests_that_are_there_and_run(row: dict[str, Any]) -> None:
    assert set(row) <= {"of", "promise", "tests", "note", "bench"}
    assert row["tests"], "a row without a test is held by nothing"
    for test_id in row["tests"]:
        path, _, name = test_id.partition("::")
        assert Path(path).name.startswith("test_"), f"{path} is not collected"
        assert name in found_in(path), f"{path} has no test called {name}"
        assert not is_left_out(found_in(path)[name]), f"{name} does not always run"
    assert "bench" not in row or (ROOT / row["bench"]).exists()


def test_every_row_is_there_once() -> None:
    for part, count in COUNTS.items():
        promises = [row["promise"] for row in ROWS if row["of"] == part]
        assert len(promises) == len(set(promises)) == count
    assert {row["of"] for row in ROWS} == COUNTS.keys()
