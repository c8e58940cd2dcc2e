"""A journal's setting: what it may say, and what is said about one that is wrong."""

import pytest

from weft.model.errors import Misconfigured
from weft.model.journal import JournalKind, parse_journal


@pytest.mark.parametrize(
    ("text", "kind", "servers", "name", "replicas", "monitor"),
    [
        ("memory", "memory", (), "weft", 1, ""),
        (" sqlite ", "sqlite", (), "weft", 1, ""),
        ("nats://a:4222", "nats", ("nats://a:4222",), "weft", 1, ""),
        ("nats://u:p@a:1,b:2/log?replicas=3", "nats", ("nats://u:p@a:1", "nats://u:p@b:2"), "log", 3, ""),
        ("nats://a:1?monitor=a:8222", "nats", ("nats://a:1",), "weft", 1, "http://a:8222"),
        ("postgres://u:p@h/db", "postgres", ("postgresql://u:p@h/db",), "weft", 1, ""),
        (
            "postgresql://h:5/db?schema=mine&sslmode=require",
            "postgres",
            ("postgresql://h:5/db?sslmode=require",),
            "mine",
            1,
            "",
        ),
    ],
)
def test_a_setting_says_where_a_journal_is(
    text: str, kind: str, servers: tuple[str, ...], name: str, replicas: int, monitor: str
) -> None:
    place = parse_journal(text, "WEFT_JOURNAL")
    found = (place.kind, place.servers, place.name, place.replicas, place.monitor)
    assert found == (kind, servers, name, replicas, monitor)
    assert place.is_shared == (place.kind in (JournalKind.NATS, JournalKind.POSTGRES))
    assert "u:p" not in place.shown


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "memory, sqlite"),
        ("redis://u:secret@h", "redis"),
        ("nats://", "names no server"),
        ("nats://u:secret@a:1,,b:2", "names no server"),
        ("nats://a:1?replicas=2", "replicas"),
        ("nats://a:1?replica=3", "replica"),
        ("nats://a:1/Two Words", "name"),
        ("postgres://u:secret@h", "database"),
        ("postgres://h/db?schema=a-b", "name"),
    ],
)
def test_a_wrong_setting_is_named_and_never_its_password(text: str, what: str) -> None:
    with pytest.raises(Misconfigured, match=what) as refusal:
        parse_journal(text, "WEFT_JOURNAL")
    assert refusal.value.variable == "WEFT_JOURNAL"
    assert "secret" not in str(refusal.value)
