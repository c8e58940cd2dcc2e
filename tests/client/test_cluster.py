"""`connect` and the cluster it returns: where it looks, what it closes, what it says without a secret."""

import gc
import os
import random
from pathlib import Path

import pytest

import weft
from tests.client.fakes import FakeClock, ScriptedHttp, answer, region_body
from weft.model.errors import BadArgument, Misconfigured, Unreachable
from weft.model.grant import http_token


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "WEFT_COORDINATOR",
        "COORDINATOR_HOST",
        "COORDINATOR_PORT",
        "ORCHD_ADDR",
        "WEFT_SECRET",
        "WEFT_TOKENS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WEFT_DATA_DIR", str(tmp_path))


def cluster_of(http: ScriptedHttp) -> weft.Cluster:
    return weft.Cluster(
        http, url="http://c", secret=b"s", token=None, holder="me", clock=FakeClock(), chance=random.Random(1)
    )


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"WEFT_COORDINATOR": "http://c:1"}, "http://c:1"),
        ({"COORDINATOR_HOST": "10.0.0.1", "COORDINATOR_PORT": "81"}, "http://10.0.0.1:81"),
        ({"WEFT_COORDINATOR": "http://c:1", "COORDINATOR_PORT": "81"}, "http://c:1"),
    ],
)
def test_the_coordinator_is_looked_for_in_this_order(
    environment: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with weft.connect() as cluster:
        assert cluster.url == url


def test_a_url_that_is_given_wins_and_needs_no_scheme() -> None:
    with weft.connect("c:81/") as cluster:
        assert cluster.url == "http://c:81"


def test_the_token_is_the_one_the_secret_gives() -> None:
    http = ScriptedHttp(answer(region_body()))
    cluster = weft.Cluster(http, url="http://c", secret=b"s", token=http_token(b"s"), holder="me")
    cluster.region("scratch")
    assert http.requests[0].headers["authorization"] == f"Bearer {http_token(b's')}"


def test_without_a_secret_the_places_it_was_looked_for_are_named(tmp_path: Path) -> None:
    with weft.connect() as cluster, pytest.raises(Misconfigured, match="WEFT_SECRET") as missing:
        _ = cluster.secret
    assert str(tmp_path / "secret") in str(missing.value)


def test_nobody_at_the_port_is_one_sentence_with_the_remedy() -> None:
    with weft.connect("http://127.0.0.1:9") as cluster, pytest.raises(Unreachable, match="`weft coordinator`"):
        cluster.health(0.2)


def test_a_cluster_that_is_forgotten_closes_its_connections() -> None:
    http = ScriptedHttp()
    cluster = cluster_of(http)
    cluster.close()
    assert http.closed

    other = ScriptedHttp()
    cluster_of(other)
    gc.collect()
    assert other.closed


def test_a_size_that_is_none_is_refused_before_anything_is_asked() -> None:
    http = ScriptedHttp()
    with pytest.raises(BadArgument, match="64GiB"):
        cluster_of(http).region("scratch", size="lots")
    assert http.requests == []


def test_the_holder_is_the_host_and_the_process_unless_given() -> None:
    with weft.connect() as cluster, weft.connect(holder="me") as named:
        assert cluster.holder.endswith(f":{os.getpid()}")
        assert named.holder == "me"
