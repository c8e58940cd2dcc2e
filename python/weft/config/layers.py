"""Where copies of the log are kept: the storage seed's variables, checked before anything is started.

    USE_MOCK_DA                    true: keep them in memory, for development; nothing of DA_* is then asked for
    DA_RPC_URL                     a Celestia node's JSON-RPC
    DA_NAMESPACE                   58 hex digits: 38 zeros and 20 of your own
    DA_AUTH_TOKEN                  the node's token; must be there on mainnet
    DA_NETWORK                     mainnet, mocha or local; mainnet when there is a token, otherwise local
    DA_TIMEOUT_MS, DA_RETRY_COUNT, DA_RETRY_DELAY_MS
    WEFT_DA_AUTH_HEADER            the header the token goes in, where a provider wants another than Authorization
    WEFT_DA_GAS_PRICE              what to pay for a unit of gas, in utia; the node decides when there is none
    ENABLE_FALLBACK                true: what follows is used when the primary fails
    FALLBACK_DA_TYPE               none, quorum, emergency, or quorum,emergency
    QUORUM_VALIDATORS              https://host:port#PUBLIC_KEY, separated by commas
    QUORUM_THRESHOLD               of a hundred validators, how many must sign
    QUORUM_SIGNATURE_TIMEOUT_MS    how long signatures are collected
    WEFT_QUORUM_TOKEN              the bearer token validators want
    EMERGENCY_DA_URL               the emergency server
    WEFT_EMERGENCY_DA_TOKEN        the bearer token it wants

None of them set means no layer: an answer then waits for the journal alone.
"""

import math
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from weft.config.process import count_of, is_loopback, is_set, split_tokens
from weft.model.errors import InvalidField, Misconfigured
from weft.model.namespace import Namespace, parse_namespace
from weft.model.policy import COUNT_MAX

NETWORKS: Final = ("mainnet", "mocha", "local")
DA_TIMEOUT_MS: Final = 30_000
DA_RETRY_COUNT: Final = 3
DA_RETRY_DELAY_MS: Final = 1_000
QUORUM_THRESHOLD: Final = 67
QUORUM_SIGNATURE_TIMEOUT_MS: Final = 5_000
QUORUM_VALIDATORS_MAX: Final = 64
"""Each is a connection and a signature a blob; real quorums have a dozen."""
PUBLIC_KEY_BYTES: Final = 32
_CELESTIA: Final = ("DA_RPC_URL", "DA_NAMESPACE")


class MockSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The seed's mock: a layer in memory."""


class CelestiaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One Celestia node, and how patient to be with it. `gas_price` None leaves the price to the node."""

    rpc_url: str
    namespace: Namespace
    token: str | None
    network: str
    timeout_ms: int = DA_TIMEOUT_MS
    retry_count: int = DA_RETRY_COUNT
    retry_delay_ms: int = DA_RETRY_DELAY_MS
    auth_header: str = "Authorization"
    gas_price: float | None = None


class ValidatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A validator: where, and whose key it signs with. None is learnt when it first answers, on loopback only."""

    url: str
    public_key: bytes | None


class QuorumSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The validators, and how many of a hundred must sign within the time."""

    validators: tuple[ValidatorSettings, ...]
    threshold_percent: int = QUORUM_THRESHOLD
    timeout_ms: int = QUORUM_SIGNATURE_TIMEOUT_MS
    token: str | None = None


class EmergencySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The emergency server."""

    url: str
    token: str | None = None


class LayerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every layer by its place in the order in which they are tried. None is a place nobody filled."""

    primary: MockSettings | CelestiaSettings | None = None
    secondary: QuorumSettings | None = None
    emergency: EmergencySettings | None = None


def read_layer_settings(env: Mapping[str, str]) -> LayerSettings:
    """The layers the environment names. Every variable that matters is checked. Raises `Misconfigured`."""
    primary = MockSettings() if is_set(env, "USE_MOCK_DA") else _celestia(env)
    kinds = _fallback_kinds(env)
    if kinds and primary is None:
        raise Misconfigured(
            "ENABLE_FALLBACK is true and there is nothing to fall back from; set DA_RPC_URL and DA_NAMESPACE, or "
            "USE_MOCK_DA=true",
            variable="ENABLE_FALLBACK",
        )
    return LayerSettings(
        primary=primary,
        secondary=_quorum(env) if "quorum" in kinds else None,
        emergency=_emergency(env) if "emergency" in kinds else None,
    )


def _celestia(env: Mapping[str, str]) -> CelestiaSettings | None:
    given = {name: env.get(name, "").strip() for name in _CELESTIA}
    token = _token(env, "DA_AUTH_TOKEN")
    if not any(given.values()) and token is None:
        return None
    for name, text in given.items():
        if not text:
            raise Misconfigured(
                f"{name} is missing, and other DA_ settings are there; set it, or USE_MOCK_DA=true", variable=name
            )
    network = env.get("DA_NETWORK", "").strip() or ("local" if token is None else "mainnet")
    if network not in NETWORKS:
        raise Misconfigured(f"DA_NETWORK is one of {', '.join(NETWORKS)}, not {network!r}", variable="DA_NETWORK")
    if network == "mainnet" and token is None:
        raise Misconfigured("DA_AUTH_TOKEN is missing, and mainnet lets nobody write without", variable="DA_AUTH_TOKEN")
    try:
        namespace = parse_namespace(given["DA_NAMESPACE"], "DA_NAMESPACE")
    except InvalidField as error:
        raise Misconfigured(error.message, variable="DA_NAMESPACE") from error
    header = env.get("WEFT_DA_AUTH_HEADER", "").strip() or "Authorization"
    if not header.isascii() or not header.replace("-", "").isalnum():
        raise Misconfigured(
            f"WEFT_DA_AUTH_HEADER is the name of a header, not {header!r}", variable="WEFT_DA_AUTH_HEADER"
        )
    return CelestiaSettings(
        rpc_url=_url(given["DA_RPC_URL"], "DA_RPC_URL"),
        namespace=namespace,
        token=token,
        network=network,
        timeout_ms=count_of(env, "DA_TIMEOUT_MS", DA_TIMEOUT_MS),
        retry_count=_count_from_zero(env, "DA_RETRY_COUNT", DA_RETRY_COUNT),
        retry_delay_ms=count_of(env, "DA_RETRY_DELAY_MS", DA_RETRY_DELAY_MS),
        auth_header=header,
        gas_price=_price(env, "WEFT_DA_GAS_PRICE"),
    )


def _fallback_kinds(env: Mapping[str, str]) -> frozenset[str]:
    text = env.get("FALLBACK_DA_TYPE", "").strip() or "none"
    kinds = [kind.strip() for kind in text.split(",")]
    known = {"quorum", "emergency"}
    if kinds != ["none"] and (not set(kinds) <= known or len(set(kinds)) < len(kinds)):
        raise Misconfigured(
            f"FALLBACK_DA_TYPE is none, quorum, emergency or quorum,emergency, not {text!r}",
            variable="FALLBACK_DA_TYPE",
        )
    if not is_set(env, "ENABLE_FALLBACK"):
        return frozenset()
    if kinds == ["none"]:
        raise Misconfigured(
            "ENABLE_FALLBACK is true and FALLBACK_DA_TYPE names nothing to fall back to; set it to quorum, emergency "
            "or quorum,emergency",
            variable="FALLBACK_DA_TYPE",
        )
    return frozenset(kinds)


def _quorum(env: Mapping[str, str]) -> QuorumSettings:
    variable = "QUORUM_VALIDATORS"
    entries = [entry.strip() for entry in env.get(variable, "").split(",") if entry.strip()]
    if not entries:
        raise Misconfigured(f"{variable} is missing, and FALLBACK_DA_TYPE names quorum", variable=variable)
    if len(entries) > QUORUM_VALIDATORS_MAX:
        raise Misconfigured(f"{variable} names more than {QUORUM_VALIDATORS_MAX} validators", variable=variable)
    validators = tuple(_validator(entry, variable) for entry in entries)
    keys = [validator.public_key for validator in validators if validator.public_key is not None]
    if len({validator.url.lower() for validator in validators}) < len(validators) or len(set(keys)) < len(keys):
        raise Misconfigured(f"{variable} names a validator twice, and each counts once", variable=variable)
    percent = count_of(env, "QUORUM_THRESHOLD", QUORUM_THRESHOLD)
    if percent > 100:
        raise Misconfigured(f"QUORUM_THRESHOLD is 1 to 100, not {percent}", variable="QUORUM_THRESHOLD")
    return QuorumSettings(
        validators=validators,
        threshold_percent=percent,
        timeout_ms=count_of(env, "QUORUM_SIGNATURE_TIMEOUT_MS", QUORUM_SIGNATURE_TIMEOUT_MS),
        token=_token(env, "WEFT_QUORUM_TOKEN"),
    )


def _validator(entry: str, variable: str) -> ValidatorSettings:
    address, _, digits = entry.partition("#")
    url = _url(address if "://" in address else f"http://{address}", variable)
    if not digits:
        if not is_loopback(urlsplit(url).hostname or ""):
            raise Misconfigured(
                f"{variable} names {url} without its key, so whoever answers there could sign for it; write "
                f"{url}#PUBLIC_KEY with what `weft witness validator` prints when it starts",
                variable=variable,
            )
        return ValidatorSettings(url=url, public_key=None)
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise Misconfigured(
            f"{variable} gives {url} a key that is not {2 * PUBLIC_KEY_BYTES} hex digits", variable=variable
        )
    return ValidatorSettings(url=url, public_key=key)


def _emergency(env: Mapping[str, str]) -> EmergencySettings:
    url = env.get("EMERGENCY_DA_URL", "").strip()
    if not url:
        raise Misconfigured(
            "EMERGENCY_DA_URL is missing, and FALLBACK_DA_TYPE names emergency", variable="EMERGENCY_DA_URL"
        )
    return EmergencySettings(url=_url(url, "EMERGENCY_DA_URL"), token=_token(env, "WEFT_EMERGENCY_DA_TOKEN"))


def _url(text: str, variable: str) -> str:
    parts = urlsplit(text)
    try:
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    # The text is repeated only where no password can be in it.
    if parts.query or parts.fragment or "@" in text:
        raise Misconfigured(
            f"{variable} is an http:// or https:// address without a login, a question mark or a number sign in it",
            variable=variable,
        )
    if not whole:
        raise Misconfigured(f"{variable} is not an http:// or https:// address: {text!r}", variable=variable)
    return text.rstrip("/")


def _token(env: Mapping[str, str], variable: str) -> str | None:
    tokens = split_tokens(env.get(variable, ""), variable)
    if len(tokens) > 1:
        raise Misconfigured(f"{variable} is one token, and holds {len(tokens)}", variable=variable)
    return tokens[0] if tokens else None


def _count_from_zero(env: Mapping[str, str], variable: str, default: int) -> int:
    text = env.get(variable, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > COUNT_MAX:
        raise Misconfigured(f"{variable} is a whole number from zero, not {text!r}", variable=variable)
    return int(text)


def _price(env: Mapping[str, str], variable: str) -> float | None:
    text = env.get(variable, "").strip()
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not math.isfinite(price) or price <= 0:
        raise Misconfigured(f"{variable} is a price above zero, not {text!r}", variable=variable)
    return price
