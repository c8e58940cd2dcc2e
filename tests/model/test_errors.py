"""The one tree of errors."""

import inspect
import pickle
import re

import pytest

from weft.model import errors
from weft.model.errors import (
    BY_CODE,
    BadArgument,
    Failed,
    LenderSilent,
    PageUnavailable,
    Rejected,
    StillExported,
    WeftError,
    from_code,
    from_native,
)

NATIVE_CODES = (
    "bad_frame",
    "unsupported_version",
    "wrong_cluster",
    "wrong_secret",
    "tls_mismatch",
    "certificate_refused",
    "not_authenticated",
    "grant_forged",
    "grant_expired",
    "stale_generation",
    "extent_lost",
    "unknown_handle",
    "out_of_range",
    "read_only",
    "too_large",
    "busy",
    "shutting_down",
    "not_supported",
    "no_memory",
    "internal",
    "timed_out",
    "disconnected",
    "unreachable",
    "cancelled",
    "closed",
    "still_exported",
    "page_unavailable",
    "no_privilege",
    "bad_argument",
)


def classes() -> list[type[WeftError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WeftError)]


def test_every_code_belongs_to_one_class() -> None:
    codes = [kind.code for kind in classes()]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(BY_CODE)


def test_the_drawing_at_the_top_names_every_class() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", inspect.getdoc(errors) or ""))
    assert {kind.__name__ for kind in classes()} <= drawn


@pytest.mark.parametrize("code", NATIVE_CODES)
def test_every_native_code_has_a_class_of_its_own(code: str) -> None:
    error = from_native(code, "a sentence", {"node": "a"})
    assert type(error).code == code
    assert type(error) not in (WeftError, Rejected, Failed)
    assert error.node == "a"


def test_facts_are_fields() -> None:
    error = PageUnavailable("lost", region="r", offset=4096, node="a", reason="extent_lost")
    assert (error.region, error.offset, error.node, error.reason) == ("r", 4096, "a", "extent_lost")
    with pytest.raises(AttributeError):
        _ = error.colour


def test_an_unknown_code_is_a_failure_that_keeps_what_was_said() -> None:
    error = from_code("brand_new", "a sentence", {"x": 1})
    assert type(error) is Failed
    assert (str(error), error.x, error.unknown_code) == ("a sentence", 1, "brand_new")


def test_some_errors_are_builtin_kinds_too() -> None:
    assert issubclass(BadArgument, ValueError)
    assert issubclass(StillExported, BufferError)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(LenderSilent("no answer", nodes=["a"])))
    assert (type(error), str(error), error.nodes, error.temporary) == (LenderSilent, "no answer", ["a"], True)
