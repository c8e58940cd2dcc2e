"""What a process is started with: where it listens, where it keeps things, who may speak to it.

    COORDINATOR_HOST, COORDINATOR_PORT   where the coordinator listens, and where clients look for it
    ORCHD_ADDR                           the same as host:port, by the node seed's name
    WEFT_COORDINATOR                     the coordinator's URL, for clients
    WEFT_JOURNAL                         where the log is: sqlite, memory, nats://host:4222, postgres://host/database
    WEFT_ADVERTISE                       the URL at which other coordinators and clients reach this one
    WEFT_TERM_LEASE_MS                   how long a writer may be silent before another coordinator takes its place
    WEFT_DATA_DIR                        where a process keeps what outlives it
    WEFT_SECRET                          the cluster secret; otherwise the file `secret` in the data directory
    WEFT_TOKENS, LLORCH_API_TOKEN        bearer tokens accepted over HTTP, separated by commas
    LLORCH_API_TOKEN_FILE                a file of more of them, read again when it changes and on SIGHUP

What the cloud profile adds is read by `read_profile`. docs/operations.md lists every variable with its default.
"""

import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from weft.config.tls import is_tls_set
from weft.model.errors import Misconfigured
from weft.model.grant import http_token
from weft.model.journal import JournalPlace, parse_journal
from weft.model.policy import (
    COORDINATOR_HOST,
    COORDINATOR_PORT,
    COUNT_MAX,
    NODE_LOST_MS,
    NODE_PURGE_MS,
    STALE_CHECK_MS,
    TERM_LEASE_MS,
)
from weft.model.remedy import with_remedy

SECRET_FILE: Final = "secret"  # noqa: S105 — the name of a file, not what is in it.
SECRET_FILE_BYTES: Final = 32
CLUSTER_NAME: Final = "weft"
STRATEGIES: Final = ("round-robin", "least-loaded", "random")
ADMISSION_POLICIES: Final = ("reject", "drop-lru")
RUNTIME_DIR: Final = ".runtime/engines"
WATCH_INTERVAL_MS: Final = 1_000
HEARTBEAT_S: Final = 10
TOKEN_LENGTH_MIN: Final = 32
"""The fewest letters of a token that other machines may send: 32 random bytes are 43 in base64 and 64 in hex."""
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Home, where everything is one machine's, or cloud, where nodes register, beat and show a token.

    `runtime_dir` is where the coordinator of a home looks for engines that are ready. `beat_skew_ms` is how far the
    clock in a heartbeat may be off; 0 means that nobody looks at it.
    """

    cloud: bool = False
    cluster_name: str = CLUSTER_NAME
    node_timeout_ms: int = NODE_LOST_MS
    stale_check_ms: int = STALE_CHECK_MS
    node_purge_ms: int = NODE_PURGE_MS
    placement_strategy: str = STRATEGIES[0]
    runtime_dir: Path = Path(RUNTIME_DIR)
    watch_interval_ms: int = WATCH_INTERVAL_MS
    loopback_exempt: bool = False
    beat_skew_ms: int = 0


class CoordinatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a coordinator is started with.

    `tokens` empty means that requests need none: only this machine reaches the bind, and nobody set one. They are what
    the environment and the secret give; those in `token_file` come on top, and may be changed while it runs.
    """

    host: str
    port: int
    data_dir: Path
    journal: JournalPlace
    advertise: str | None
    term_lease_ms: int
    secret: bytes
    tokens: tuple[str, ...]
    token_file: Path | None
    profile: Profile


def read_coordinator_settings(
    env: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    data_dir: str | None = None,
    journal: str | None = None,
    advertise: str | None = None,
) -> CoordinatorSettings:
    """The coordinator's settings; what is passed here comes from flags and wins over the environment.

    Creates the data directory and the secret where they are missing. Raises `Misconfigured`.
    """
    if journal is not None:
        place = parse_journal(journal, "--journal")
    else:
        place = parse_journal(env.get("WEFT_JOURNAL", "").strip() or "sqlite", "WEFT_JOURNAL")
    env_host, env_port = _listen_address(env)
    bind_host = host or env_host or COORDINATOR_HOST
    bind_port = _port(str(port), "--port", lowest=0) if port is not None else env_port
    directory = Path(data_dir) if data_dir else data_directory(env)
    open_to_others = not is_loopback(bind_host)
    profile = read_profile(env)
    given = find_secret(env, directory)
    token_file = _token_file(env)
    tokens = read_tokens(env)
    in_file = read_token_file(token_file) if token_file is not None else ()
    check_tokens(bind_host, profile, (*tokens, *in_file))
    if open_to_others and given is None and not tokens and not in_file:
        raise Misconfigured(
            f"{bind_host} can be reached from other machines, and anybody there could read and write memory; "
            "set WEFT_SECRET or WEFT_TOKENS first, or bind to 127.0.0.1",
            variable="WEFT_SECRET",
        )
    wanted = open_to_others or "LLORCH_API_TOKEN" in env or token_file is not None
    secret = given if given is not None else create_secret(directory)
    return CoordinatorSettings(
        host=bind_host,
        port=COORDINATOR_PORT if bind_port is None else bind_port,
        data_dir=_existing_directory(directory),
        journal=place,
        advertise=_advertised(env, advertise),
        term_lease_ms=count_of(env, "WEFT_TERM_LEASE_MS", TERM_LEASE_MS),
        secret=secret,
        tokens=(*tokens, http_token(secret)) if wanted else (),
        token_file=token_file,
        profile=profile,
    )


def read_profile(env: Mapping[str, str]) -> Profile:
    """What the node seed's variables say. Every one is checked, in either profile. Raises `Misconfigured`."""
    timeout_ms = count_of(env, "ORCHESTRATORD_NODE_TIMEOUT_MS", NODE_LOST_MS)
    if "HEARTBEAT_INTERVAL_SECS" in env:
        beat_s = count_of(env, "HEARTBEAT_INTERVAL_SECS", HEARTBEAT_S)
        if timeout_ms <= beat_s * 1_000:
            raise Misconfigured(
                f"ORCHESTRATORD_NODE_TIMEOUT_MS={timeout_ms} is no longer than HEARTBEAT_INTERVAL_SECS={beat_s}, so "
                "every node would be offline between two of its beats",
                variable="ORCHESTRATORD_NODE_TIMEOUT_MS",
            )
    # Weft admits no inference tasks. The seed's two settings for it are checked and otherwise unused.
    count_of(env, "ORCHD_ADMISSION_CAPACITY", 8)
    _choice(env, "ORCHD_ADMISSION_POLICY", ADMISSION_POLICIES)
    return Profile(
        cloud=is_set(env, "ORCHESTRATORD_CLOUD_PROFILE"),
        cluster_name=env.get("WEFT_CLUSTER", "").strip() or CLUSTER_NAME,
        node_timeout_ms=timeout_ms,
        stale_check_ms=1_000 * count_of(env, "ORCHESTRATORD_STALE_CHECK_INTERVAL_SECS", STALE_CHECK_MS // 1_000),
        node_purge_ms=1_000 * count_of(env, "WEFT_NODE_PURGE_SECS", NODE_PURGE_MS // 1_000),
        placement_strategy=_choice(env, "ORCHESTRATORD_PLACEMENT_STRATEGY", STRATEGIES),
        runtime_dir=Path(env.get("ORCHD_RUNTIME_DIR", "").strip() or RUNTIME_DIR),
        watch_interval_ms=count_of(env, "ORCHD_HANDOFF_WATCH_INTERVAL_MS", WATCH_INTERVAL_MS),
        loopback_exempt=is_set(env, "WEFT_LOOPBACK_EXEMPT"),
        beat_skew_ms=1_000 * count_of(env, "WEFT_BEAT_SKEW_SECS", 0),
    )


def coordinator_url(env: Mapping[str, str]) -> str:
    """Where clients find the coordinator, without a slash at the end."""
    if url := env.get("WEFT_COORDINATOR", "").strip():
        full = url if "://" in url else f"http://{url}"
        if not is_web_url(full):
            raise Misconfigured(f"WEFT_COORDINATOR is not a URL: {url!r}", variable="WEFT_COORDINATOR")
        return full.rstrip("/")
    host, port = _listen_address(env)
    return f"http://{join_address(_reachable(host or COORDINATOR_HOST), port or COORDINATOR_PORT)}"


def rdma_choice(env: Mapping[str, str]) -> str:
    """Whether this process may use RDMA: "auto" (the first device that is up, if any), "off", or a device's name.

    Where TLS is spoken it is off, because bytes that go by RDMA are not encrypted. Raises `Misconfigured`.
    """
    choice = env.get("WEFT_RDMA", "").strip() or "auto"
    if not is_tls_set(env):
        return choice
    if choice not in ("auto", "off"):
        raise Misconfigured(
            f"WEFT_RDMA={choice} asks for RDMA, which does not encrypt, and WEFT_TLS_CERT for TLS; unset one of them",
            variable="WEFT_RDMA",
        )
    return "off"


def client_token(env: Mapping[str, str]) -> str | None:
    """The bearer token a client sends: the first that is set, or in the token file, else the secret's, else none."""
    token_file = _token_file(env)
    tokens = read_tokens(env) or (read_token_file(token_file) if token_file is not None else ())
    if tokens:
        return tokens[0]
    secret = find_secret(env)
    return http_token(secret) if secret is not None else None


def data_directory(env: Mapping[str, str]) -> Path:
    """Where processes of this user keep what outlives them."""
    if chosen := env.get("WEFT_DATA_DIR", "").strip():
        return Path(chosen).expanduser()
    if base := env.get("XDG_DATA_HOME", "").strip():
        return Path(base).expanduser() / "weft"
    return Path.home() / ".local" / "share" / "weft"


def read_tokens(env: Mapping[str, str]) -> tuple[str, ...]:
    """The bearer tokens of the environment, several while they are being changed; Weft's own first."""
    return tuple(
        token
        for variable in ("WEFT_TOKENS", "LLORCH_API_TOKEN")
        for token in split_tokens(env.get(variable, ""), variable)
    )


def read_token_file(path: Path) -> tuple[str, ...]:
    """The bearer tokens of a file, separated by commas or line ends. Raises `Misconfigured`, also when it has none."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"LLORCH_API_TOKEN_FILE: cannot read {path}: {error}", variable="LLORCH_API_TOKEN_FILE"
        ) from error
    tokens = split_tokens(text.replace("\n", ","), "LLORCH_API_TOKEN_FILE")
    if not tokens:
        raise Misconfigured(f"LLORCH_API_TOKEN_FILE: {path} holds no token", variable="LLORCH_API_TOKEN_FILE")
    return tokens


def split_tokens(text: str, variable: str) -> tuple[str, ...]:
    """The tokens of a comma list. The sentence about a bad one names where it came from and never the token."""
    tokens = tuple(token.strip() for token in text.split(",") if token.strip())
    for token in tokens:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise Misconfigured(f"{variable} holds a token with spaces or unprintable letters", variable=variable)
    return tokens


def find_secret(env: Mapping[str, str], directory: Path | None = None) -> bytes | None:
    """The cluster secret this process can know: the variable, else the file, else None."""
    if "WEFT_SECRET" in env:
        if not (text := env["WEFT_SECRET"].strip()):
            raise Misconfigured("WEFT_SECRET is set and empty", variable="WEFT_SECRET")
        return text.encode()
    path = (directory or data_directory(env)) / SECRET_FILE
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misconfigured(f"cannot read {path}: {error.strerror}", variable="WEFT_DATA_DIR") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(
            f"{path} is no text; a secret is a line of letters, such as `openssl rand -hex 32` prints",
            variable="WEFT_DATA_DIR",
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise Misconfigured(f"others can read {path}; run: chmod 600 {path}", variable="WEFT_DATA_DIR")
    if not text:
        raise Misconfigured(f"{path} is empty; remove it to have a new secret made", variable="WEFT_DATA_DIR")
    return text.encode()


def create_secret(directory: Path) -> bytes:
    """Make the secret and keep it where processes of this user find it.

    Two processes may get here at once; the file is made whole under another name and linked, so one wins and both
    return what is in it.
    """
    path = _existing_directory(directory) / SECRET_FILE
    try:
        return _create_secret(path)
    except OSError as error:
        raise Misconfigured(
            with_remedy(f"cannot keep the cluster's secret in {directory}: {error.strerror}", error.errno),
            variable="WEFT_DATA_DIR",
        ) from error


def _create_secret(path: Path) -> bytes:
    draft = path.with_name(f"{SECRET_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_FILE_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip().encode()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a bind address. A name other than localhost may be anything, so is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def route_from(host: str) -> str:
    """The address of this machine that packets to `host` leave from. Nothing is sent: connecting UDP only routes."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            found: str = probe.getsockname()[0]
            return found
    except OSError as error:
        raise Misconfigured(
            f"there is no way from this machine to {host}: {error.strerror}; give --host", variable="--host"
        ) from error


def join_address(host: str, port: int) -> str:
    """host:port, with the brackets IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split_address(address: str, variable: str) -> tuple[str, int]:
    """host:port, the host possibly in brackets. Raises `Misconfigured` naming the variable it came from."""
    host, colon, port = address.strip().rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise Misconfigured(f"{variable} is not host:port: {address!r}", variable=variable)
    return host.strip("[]"), _port(port, variable, lowest=0)


def is_web_url(url: str) -> bool:
    """Whether this is an http or https URL with a host, and with a port that there is where it names one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_set(env: Mapping[str, str], variable: str) -> bool:
    """A switch: true, yes, on or 1 against false, no, off, 0 or nothing. Raises `Misconfigured` for anything else."""
    text = env.get(variable, "").strip().lower()
    if text not in _YES | _NO:
        raise Misconfigured(f"{variable} is true or false, not {env[variable]!r}", variable=variable)
    return text in _YES


def count_of(env: Mapping[str, str], variable: str, default: int) -> int:
    """A whole number above zero. Raises `Misconfigured`."""
    text = env.get(variable, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= COUNT_MAX:
        raise Misconfigured(f"{variable} is a whole number above zero, not {text!r}", variable=variable)
    return int(text)


def _advertised(env: Mapping[str, str], flag: str | None) -> str | None:
    """The URL at which others reach this coordinator, where somebody says it."""
    variable = "--advertise" if flag else "WEFT_ADVERTISE"
    if not (url := (flag or env.get("WEFT_ADVERTISE", "")).strip()):
        return None
    full = url if "://" in url else f"http://{url}"
    # It stands in the log, which everybody reads, and clients put a path behind it.
    if not set(full).isdisjoint(" ?#@\\"):
        raise Misconfigured(
            f"{variable} is an address without a login, a question mark or a number sign in it", variable=variable
        )
    if not is_web_url(full):
        raise Misconfigured(f"{variable} is not a URL: {url!r}", variable=variable)
    return urlsplit(full).geturl().rstrip("/")


def _choice(env: Mapping[str, str], variable: str, choices: tuple[str, ...]) -> str:
    text = env.get(variable, "").strip() or choices[0]
    if text not in choices:
        raise Misconfigured(f"{variable} is one of {', '.join(choices)}, not {text!r}", variable=variable)
    return text


def _token_file(env: Mapping[str, str]) -> Path | None:
    text = env.get("LLORCH_API_TOKEN_FILE", "").strip()
    return Path(text).expanduser() if text else None


def check_tokens(bind_host: str, profile: Profile, tokens: tuple[str, ...]) -> None:
    """In the cloud profile other machines show a token, long enough that nobody guesses it. Raises `Misconfigured`.

    The rule holds at the start and for every token that comes later.
    """
    if not profile.cloud or is_loopback(bind_host):
        return
    if not tokens:
        raise Misconfigured(
            f"{bind_host} can be reached from other machines, and the cloud profile lets none in without a token; "
            "set LLORCH_API_TOKEN or LLORCH_API_TOKEN_FILE, or bind to 127.0.0.1",
            variable="LLORCH_API_TOKEN",
        )
    if any(len(token) < TOKEN_LENGTH_MIN for token in tokens):
        raise Misconfigured(
            f"LLORCH_API_TOKEN or its file holds a token of fewer than {TOKEN_LENGTH_MIN} letters, which can be "
            "guessed; make one with `openssl rand -hex 32`",
            variable="LLORCH_API_TOKEN",
        )


def _listen_address(env: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Host and port by both seeds' variables, which have to agree where both speak."""
    host = env.get("COORDINATOR_HOST", "").strip() or None
    port_text = env.get("COORDINATOR_PORT", "").strip()
    port = _port(port_text, "COORDINATOR_PORT", lowest=0) if port_text else None
    if not (address := env.get("ORCHD_ADDR", "").strip()):
        return host, port
    other_host, other_port = split_address(address, "ORCHD_ADDR")
    if (host is not None and host != other_host) or (port is not None and port != other_port):
        said = ", ".join(
            f"{name}={env[name]}" for name in ("COORDINATOR_HOST", "COORDINATOR_PORT") if env.get(name, "").strip()
        )
        raise Misconfigured(f"{said} and ORCHD_ADDR={address} disagree; set one of them", variable="ORCHD_ADDR")
    return other_host, other_port


def _port(text: str, variable: str, lowest: int) -> int:
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= 65_535:
        raise Misconfigured(f"{variable} is not a port: {text!r}", variable=variable)
    return int(text)


def _reachable(host: str) -> str:
    """An address to connect to, for one that means "every interface"."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host)  # noqa: S104 — compared, not bound.


def _existing_directory(directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"cannot create {directory}: {error.strerror}", variable="WEFT_DATA_DIR") from error
    return directory
