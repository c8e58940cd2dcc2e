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
    read_profile,
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
        ({"WEFT_COORDINATOR": "http://a:99999"}, "WEFT_COORDINATOR"),
        ({"WEFT_COORDINATOR": "http://[a"}, "WEFT_COORDINATOR"),
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
    assert (settings.host, settings.port, settings.journal.kind, settings.tokens) == ("127.0.0.1", 8080, "sqlite", ())
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


def test_a_secret_that_is_no_text_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\xff\xfe\x00")
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match=f"{path} is no text"):
        find_secret({}, tmp_path)


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


LONG = "x" * 32


def settings_of(directory: Path, **env: str) -> Any:
    return read_coordinator_settings({"WEFT_DATA_DIR": str(directory), **env})


def test_the_home_profile_is_what_there_is_unless_somebody_says_otherwise() -> None:
    profile = read_profile({})
    assert (profile.cloud, profile.node_timeout_ms, profile.stale_check_ms) == (False, 30_000, 10_000)
    assert (profile.placement_strategy, profile.runtime_dir, profile.watch_interval_ms) == (
        "round-robin",
        Path(".runtime/engines"),
        1_000,
    )


@pytest.mark.parametrize(
    ("text", "cloud"), [("true", True), ("1", True), ("YES", True), ("on", True), ("false", False), ("", False)]
)
def test_the_switch_of_the_cloud_profile(text: str, cloud: bool) -> None:
    assert read_profile({"ORCHESTRATORD_CLOUD_PROFILE": text}).cloud is cloud


def test_the_seed_s_numbers_are_read() -> None:
    env = {"ORCHESTRATORD_NODE_TIMEOUT_MS": "60000", "ORCHESTRATORD_STALE_CHECK_INTERVAL_SECS": "5"}
    profile = read_profile(env)
    assert (profile.node_timeout_ms, profile.stale_check_ms) == (60_000, 5_000)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATORD_CLOUD_PROFILE", "perhaps"),
        ("ORCHESTRATORD_NODE_TIMEOUT_MS", "0"),
        ("ORCHESTRATORD_NODE_TIMEOUT_MS", "-1"),
        ("ORCHESTRATORD_NODE_TIMEOUT_MS", "soon"),
        ("ORCHESTRATORD_NODE_TIMEOUT_MS", "1e4"),
        ("ORCHESTRATORD_STALE_CHECK_INTERVAL_SECS", "0"),
        ("ORCHESTRATORD_PLACEMENT_STRATEGY", "fastest"),
        ("ORCHD_HANDOFF_WATCH_INTERVAL_MS", "0"),
        ("ORCHD_ADMISSION_CAPACITY", "0"),
        ("ORCHD_ADMISSION_POLICY", "shrug"),
        ("HEARTBEAT_INTERVAL_SECS", "0"),
        ("WEFT_NODE_PURGE_SECS", "0"),
        ("WEFT_LOOPBACK_EXEMPT", "2"),
        ("WEFT_BEAT_SKEW_SECS", "-1"),
        ("WEFT_BEAT_SKEW_SECS", "0.5"),
    ],
)
def test_a_wrong_setting_of_a_profile_stops_the_process_and_is_named(variable: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=variable) as refusal:
        settings_of(tmp_path, **{variable: value})
    assert refusal.value.variable == variable


def test_a_timeout_no_longer_than_a_beat_is_refused() -> None:
    with pytest.raises(Misconfigured, match="HEARTBEAT_INTERVAL_SECS=10"):
        read_profile({"ORCHESTRATORD_NODE_TIMEOUT_MS": "10000", "HEARTBEAT_INTERVAL_SECS": "10"})


def test_in_the_cloud_a_bind_others_reach_needs_a_long_token(tmp_path: Path) -> None:
    cloud = {"ORCHESTRATORD_CLOUD_PROFILE": "true", "COORDINATOR_HOST": "0.0.0.0", "WEFT_SECRET": "s"}
    with pytest.raises(Misconfigured, match="LLORCH_API_TOKEN"):
        settings_of(tmp_path, **cloud)
    with pytest.raises(Misconfigured, match="32") as refusal:
        settings_of(tmp_path, **cloud, LLORCH_API_TOKEN="short-one")
    assert "short-one" not in str(refusal.value)
    assert settings_of(tmp_path, **cloud, LLORCH_API_TOKEN=f"{LONG}1,{LONG}2").tokens[:2] == (f"{LONG}1", f"{LONG}2")


def test_on_this_machine_alone_the_cloud_profile_needs_no_token(tmp_path: Path) -> None:
    assert settings_of(tmp_path, ORCHESTRATORD_CLOUD_PROFILE="true").tokens == ()


def test_a_token_that_is_set_is_wanted_even_on_this_machine(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, LLORCH_API_TOKEN="test")
    assert settings.tokens == ("test", http_token(settings.secret))


def test_a_token_file_is_read_by_coordinators_and_clients(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("one,\ntwo\n")
    assert settings_of(tmp_path, LLORCH_API_TOKEN_FILE=str(path)).token_file == path
    assert client_token({"LLORCH_API_TOKEN_FILE": str(path)}) == "one"
    path.write_text("\n")
    with pytest.raises(Misconfigured, match="holds no token"):
        settings_of(tmp_path, LLORCH_API_TOKEN_FILE=str(path))
    with pytest.raises(Misconfigured, match="LLORCH_API_TOKEN_FILE: cannot read"):
        settings_of(tmp_path, LLORCH_API_TOKEN_FILE=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("env", "flags", "variable"),
    [
        ({"WEFT_JOURNAL": "redis://h"}, {}, "WEFT_JOURNAL"),
        ({"WEFT_JOURNAL": "nats://h:1?replicas=2"}, {}, "WEFT_JOURNAL"),
        ({}, {"journal": "postgres://h"}, "--journal"),
        ({"WEFT_ADVERTISE": "ftp://h"}, {}, "WEFT_ADVERTISE"),
        ({"WEFT_ADVERTISE": "http://me:hunter2@h"}, {}, "WEFT_ADVERTISE"),
        ({"WEFT_ADVERTISE": "http://h/?token=hunter2"}, {}, "WEFT_ADVERTISE"),
        ({"WEFT_TERM_LEASE_MS": "soon"}, {}, "WEFT_TERM_LEASE_MS"),
    ],
)
def test_a_wrong_journal_or_lease_stops_the_coordinator_and_is_named(
    tmp_path: Path, env: dict[str, str], flags: dict[str, Any], variable: str
) -> None:
    with pytest.raises(Misconfigured, match=variable) as refusal:
        read_coordinator_settings({"WEFT_DATA_DIR": str(tmp_path), **env}, **flags)
    assert refusal.value.variable == variable
    assert "hunter2" not in str(refusal.value)


def test_a_flag_wins_over_the_journal_of_the_environment(tmp_path: Path) -> None:
    env = {"WEFT_DATA_DIR": str(tmp_path), "WEFT_JOURNAL": "nats://h:4222"}
    assert read_coordinator_settings(env).journal.is_shared
    assert not read_coordinator_settings(env, journal="sqlite").journal.is_shared
