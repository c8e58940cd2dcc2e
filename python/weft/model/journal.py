"""Where a journal is, as a setting says it: parsed once by `weft.config`, opened by `weft.ledger`."""

import re
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from weft.model.errors import Misconfigured

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


class JournalKind(StrEnum):
    """Which engine keeps the log."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    NATS = "nats"
    POSTGRES = "postgres"


SHARED_KINDS = frozenset({JournalKind.NATS, JournalKind.POSTGRES})
"""The engines several coordinators reach: one writes, the others follow."""


class JournalPlace(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and a place in it.

    `servers` are addresses as the engine's client takes them, and may hold a password: only `shown` is for people.
    `name` is the stream or the schema. `monitor` is a NATS server's monitoring address, where its sync setting is read.
    """

    kind: JournalKind
    servers: tuple[str, ...] = ()
    name: str = "weft"
    replicas: int = 1
    monitor: str = ""
    shown: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether other coordinators may write here too."""
        return self.kind in SHARED_KINDS


def parse_journal(text: str, variable: str) -> JournalPlace:
    """A setting as a place.

        memory · sqlite
        nats://[user:password@]host:port[,host:port…][/name][?replicas=3&monitor=host:8222]
        postgres://[user[:password]@]host[:port]/database[?schema=name&…]

    Raises `Misconfigured` naming the variable, and never the password.
    """
    parts = urlsplit(text.strip())
    if not parts.scheme and parts.path in (JournalKind.MEMORY, JournalKind.SQLITE):
        return JournalPlace(kind=JournalKind(parts.path), shown=parts.path)
    if parts.scheme in ("nats", "tls"):
        return _parse_nats(parts, variable)
    if parts.scheme in ("postgres", "postgresql"):
        return _parse_postgres(parts, variable)
    kind = parts.scheme or parts.path
    raise Misconfigured(
        f"{variable} is memory, sqlite, nats://host:4222 or postgres://host/database, not {kind!r}", variable=variable
    )


def _parse_nats(parts: SplitResult, variable: str) -> JournalPlace:
    login, at, hosts = parts.netloc.rpartition("@")
    addresses = [host.strip() for host in hosts.split(",")]
    if not all(addresses):
        raise Misconfigured(f"{variable} names no server after {parts.scheme}://", variable=variable)
    query = _read_query(parts, ("replicas", "monitor"), variable)
    replicas = query.get("replicas", "1")
    if replicas not in ("1", "3", "5"):
        raise Misconfigured(f"{variable}: replicas is 1, 3 or 5, not {replicas!r}", variable=variable)
    monitor = query.get("monitor", "")
    return JournalPlace(
        kind=JournalKind.NATS,
        servers=tuple(f"{parts.scheme}://{login}{at}{address}" for address in addresses),
        name=_read_name(parts.path.strip("/") or "weft", variable),
        replicas=int(replicas),
        monitor=monitor if "://" in monitor or not monitor else f"http://{monitor}",
        shown=f"{parts.scheme}://{','.join(addresses)}",
    )


def _parse_postgres(parts: SplitResult, variable: str) -> JournalPlace:
    host = parts.netloc.rpartition("@")[2]
    if not host or not parts.path.strip("/"):
        raise Misconfigured(f"{variable} is postgres://host/database, with both named", variable=variable)
    fields = dict(parse_qsl(parts.query))
    name = _read_name(fields.pop("schema", "weft"), variable)
    server = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(fields), ""))
    return JournalPlace(kind=JournalKind.POSTGRES, servers=(server,), name=name, shown=f"postgres://{host}{parts.path}")


def _read_query(parts: SplitResult, known: tuple[str, ...], variable: str) -> dict[str, str]:
    fields = dict(parse_qsl(parts.query))
    if unknown := sorted(set(fields) - set(known)):
        raise Misconfigured(f"{variable} knows {', '.join(known)} and no {unknown[0]}", variable=variable)
    return fields


def _read_name(name: str, variable: str) -> str:
    if not _NAME.fullmatch(name):
        raise Misconfigured(
            f"{variable}: a journal's name is a letter and then letters, digits and underscores, not {name!r}",
            variable=variable,
        )
    return name
