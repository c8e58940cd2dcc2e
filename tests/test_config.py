"""Settings: read once, checked whole, and wrong ones named."""

import os
from pathlib import Path
from typing import Any

import pytest

from weft.config import (
    client_token,
    coordinator_url,
    create_secret,
    data_directory,
    find_secret,
    is_loopback,
    join_address,
    read_coordinator_settings,
    read_tokens,
)
from weft.model.errors import Misconfigured
from weft.model.grant import http_token


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"WEFT_COORDINATOR": "http://a:1/"}, "http://a:1"),
        ({"WEFT_COORDINATOR": "a:1"}, "http://a:1"),
        ({"WEFT_COORDINATOR": "https://a", "COORDINATOR_PORT": "9"}, "https://a"),
        ({"COORDINATOR_HOST": "10.0.0.1"}, "http://10.0.0.1:8080"),
        ({"COORDINATOR_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"COORDINATOR_HOST": "0.0.0.0", "COORDINATOR_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"COORDINATOR_HOST": "::"}, "http://[::1]:8080"),
        ({"ORCHD_ADDR": "0.0.0.0:8081"}, "http://127.0.0.1:8081"),
        ({"ORCHD_ADDR": "[fe80::1]:8081"}, "http://[fe80::1]:8081"),
        ({"ORCHD_ADDR": "10.0.0.1:8081", "COORDINATOR_PORT": "8081"}, "http://10.0.0.1:8081"),
    ],
)
def test_where_clients_find_the_coordinator(env: dict[str, str], url: str) -> None:
    assert coordinator_url(env) == url


@pytest.mark.parametrize(
    ("env", "variable"),
    [
        ({"WEFT_COORDINATOR": "ftp://a"}, "WEFT_COORDINATOR"),
        ({"WEFT_COORDINATOR": "http://"}, "WEFT_COORDINATOR"),
        ({"COORDINATOR_PORT": "eighty"}, "COORDINATOR_PORT"),
        ({"COORDINATOR_PORT": "65536"}, "COORDINATOR_PORT"),
        ({"ORCHD_ADDR": "localhost"}, "ORCHD_ADDR"),
        ({"ORCHD_ADDR": "fe80::1:80"}, "ORCHD_ADDR"),
        ({"ORCHD_ADDR": "a:1", "COORDINATOR_HOST": "b"}, "ORCHD_ADDR"),
    ],
)
def test_a_wrong_setting_is_named(env: dict[str, str], variable: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as refusal:
        coordinator_url(env)
    assert refusal.value.variable == variable


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"WEFT_DATA_DIR": "/d"}, Path("/d")),
        ({"WEFT_DATA_DIR": "/d", "XDG_DATA_HOME": "/x"}, Path("/d")),
        ({"XDG_DATA_HOME": "/x"}, Path("/x/weft")),
        ({}, Path.home() / ".local/share/weft"),
    ],
)
def test_where_things_are_kept(env: dict[str, str], path: Path) -> None:
    assert data_directory(env) == path


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert join_address("::1", 1) == join_address("[::1]", 1) == "[::1]:1"


def read(tmp_path: Path, env: dict[str, str], **flags: Any) -> Any:
    return read_coordinator_settings({"WEFT_DATA_DIR": str(tmp_path), **env}, **flags)


def test_a_coordinator_needs_no_setting_at_all(tmp_path: Path) -> None:
    settings = read(tmp_path / "new", {})
    assert (settings.host, settings.port, settings.journal, settings.tokens) == ("127.0.0.1", 8080, "sqlite", ())
    assert find_secret({"WEFT_DATA_DIR": str(tmp_path / "new")}) == settings.secret


def test_flags_win_over_the_environment(tmp_path: Path) -> None:
    settings = read(tmp_path, {"COORDINATOR_PORT": "1", "COORDINATOR_HOST": "localhost"}, host="::1", port=0)
    assert (settings.host, settings.port) == ("::1", 0)


def test_a_bind_others_reach_wants_tokens_or_the_secret(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can be reached from other machines"):
        read(tmp_path, {"COORDINATOR_HOST": "0.0.0.0"})
    assert not (tmp_path / "secret").exists()
    by_secret = read(tmp_path, {"COORDINATOR_HOST": "0.0.0.0", "WEFT_SECRET": "s"})
    assert by_secret.tokens == (http_token(b"s"),)
    by_token = read(tmp_path, {"COORDINATOR_HOST": "0.0.0.0", "WEFT_TOKENS": "new, old"})
    assert by_token.tokens[:2] == ("new", "old")
    assert len(by_token.tokens) == 3


def test_a_client_sends_a_token_of_its_own_or_the_one_the_secret_gives(tmp_path: Path) -> None:
    env = {"WEFT_DATA_DIR": str(tmp_path)}
    assert client_token(env) is None
    assert client_token({**env, "WEFT_SECRET": "s"}) == http_token(b"s")
    assert client_token({**env, "WEFT_SECRET": "s", "WEFT_TOKENS": "new,old"}) == "new"


def test_a_secret_others_can_read_is_not_used(tmp_path: Path) -> None:
    create_secret(tmp_path)
    os.chmod(tmp_path / "secret", 0o644)  # noqa: PTH101
    with pytest.raises(Misconfigured, match="chmod 600"):
        find_secret({}, tmp_path)


def test_of_two_who_make_the_secret_one_wins_and_both_have_it(tmp_path: Path) -> None:
    assert create_secret(tmp_path) == create_secret(tmp_path) == find_secret({}, tmp_path)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="WEFT_SECRET"):
        find_secret({"WEFT_SECRET": " "}, tmp_path)


def test_a_token_with_spaces_in_it_is_refused() -> None:
    with pytest.raises(Misconfigured, match="WEFT_TOKENS"):
        read_tokens({"WEFT_TOKENS": "a b"})
