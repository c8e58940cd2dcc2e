"""What the cloud profile adds to a node: who it is at the pools door, where it is reached, and which pools it runs.

The names of the variables are the node seed's. A node that is not in the cloud profile has none of this.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from weft import config
from weft.model.errors import InvalidField, Misconfigured
from weft.model.ids import parse_node_id

DEFAULT_POOLS = "pool-0"
UNKNOWN_NODE = "unknown-node"
"""What the original called every machine whose name it could not find. Two of those would be one node."""


class CloudSettings(Struct, frozen=True, kw_only=True):
    """A node's part in the cloud profile. With `registers` off it joins by the cluster door, as it would at home."""

    machine_id: str
    address: str
    pool_ids: tuple[str, ...]
    runtime_dir: Path
    watch_interval_ms: int
    heartbeat_s: int
    registers: bool


def read_cloud(env: Mapping[str, str], node_id: str) -> CloudSettings | None:
    """The settings of the cloud profile, or None at home. Raises `Misconfigured` naming the variable."""
    heartbeat_s = config.count_of(env, "HEARTBEAT_INTERVAL_SECS", config.HEARTBEAT_S)
    watch_interval_ms = config.count_of(env, "WATCH_INTERVAL_MS", config.WATCH_INTERVAL_MS)
    if not config.is_set(env, "POOL_MANAGERD_CLOUD_PROFILE"):
        return None
    return CloudSettings(
        machine_id=env.get("POOL_MANAGERD_MACHINE_ID", "").strip() or node_id,
        address=_address(env),
        pool_ids=_pools(env),
        runtime_dir=Path(env.get("POOL_MANAGERD_RUNTIME_DIR", "").strip() or config.RUNTIME_DIR),
        watch_interval_ms=watch_interval_ms,
        heartbeat_s=heartbeat_s,
        registers="ORCHESTRATORD_REGISTER_ON_STARTUP" not in env
        or config.is_set(env, "ORCHESTRATORD_REGISTER_ON_STARTUP"),
    )


def coordinator_of(env: Mapping[str, str], flag: str | None) -> Mapping[str, str]:
    """The environment with one word on where the coordinator is. Two that disagree are an error naming both."""
    ours, theirs = env.get("WEFT_COORDINATOR", "").strip(), env.get("ORCHESTRATORD_URL", "").strip()
    if flag:
        return {**env, "WEFT_COORDINATOR": flag}
    if ours and theirs and ours.rstrip("/") != theirs.rstrip("/"):
        raise Misconfigured(
            f"WEFT_COORDINATOR={ours} and ORCHESTRATORD_URL={theirs} disagree; set one of them",
            variable="ORCHESTRATORD_URL",
        )
    if theirs and not config.is_web_url(theirs if "://" in theirs else f"http://{theirs}"):
        raise Misconfigured(f"ORCHESTRATORD_URL is not a URL: {theirs!r}", variable="ORCHESTRATORD_URL")
    if not ours and not theirs and config.is_set(env, "POOL_MANAGERD_CLOUD_PROFILE"):
        raise Misconfigured(
            "a node of the cloud profile does not guess where its coordinator is; set ORCHESTRATORD_URL",
            variable="ORCHESTRATORD_URL",
        )
    return {**env, "WEFT_COORDINATOR": ours or theirs}


def name_of(env: Mapping[str, str], flag: str | None, hostname: str) -> str:
    """What the node is called. The hostname serves where it is one."""
    name = flag or env.get("POOL_MANAGERD_NODE_ID", "").strip() or hostname.strip()
    if not name or name == UNKNOWN_NODE:
        raise Misconfigured(
            "this machine has no name of its own, and two nodes of one name are one node; "
            "set POOL_MANAGERD_NODE_ID, or give --name",
            variable="POOL_MANAGERD_NODE_ID",
        )
    return name


def _address(env: Mapping[str, str]) -> str:
    """Where engines of this node are reached. An address that means "every interface" is of no use to anybody else."""
    if given := env.get("POOL_MANAGERD_ADDRESS", "").strip():
        url = given if "://" in given else f"http://{given}"
        if not config.is_web_url(url):
            raise Misconfigured(
                f"POOL_MANAGERD_ADDRESS is not a URL with a host and a port that there is: {given!r}",
                variable="POOL_MANAGERD_ADDRESS",
            )
        return url.rstrip("/")
    if bind := env.get("POOL_MANAGERD_ADDR", "").strip():
        host, port = config.split_address(bind, "POOL_MANAGERD_ADDR")
        if _is_concrete(host):
            return f"http://{config.join_address(host, port)}"
    raise Misconfigured(
        "others have to be told where this node's engines are reached; set POOL_MANAGERD_ADDRESS to a URL",
        variable="POOL_MANAGERD_ADDRESS",
    )


def _is_concrete(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _pools(env: Mapping[str, str]) -> tuple[str, ...]:
    text = env.get("POOL_MANAGERD_POOLS", "").strip() or DEFAULT_POOLS
    named = tuple(pool.strip() for pool in text.split(",") if pool.strip())
    try:
        for pool in named:
            parse_node_id(pool, "POOL_MANAGERD_POOLS")
    except InvalidField as error:
        raise Misconfigured(
            f"POOL_MANAGERD_POOLS names a pool {pool!r}, which is none", variable="POOL_MANAGERD_POOLS"
        ) from error
    if len(set(named)) != len(named) or not named:
        raise Misconfigured(
            f"POOL_MANAGERD_POOLS is a list of different pools, not {text!r}", variable="POOL_MANAGERD_POOLS"
        )
    return named
