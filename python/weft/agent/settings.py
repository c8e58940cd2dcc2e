"""What a node is started with, checked whole before anything is begun."""

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from weft import config
from weft.agent.cloud import CloudSettings, coordinator_of, name_of, read_cloud
from weft.client.sizes import format_size, parse_size
from weft.dataplane import MachineMemory
from weft.model.errors import InvalidField, Misconfigured
from weft.model.ids import NodeId, parse_node_id
from weft.model.policy import PORT_FIRST, PORT_LAST, SCRUB_BYTES_PER_S, SCRUB_EVERY_MS, STRIPE_BYTES

CLUSTER_NAME = "weft"


class NodeSettings(Struct, frozen=True, kw_only=True):
    """A node's settings. `listen_host` is bound; `host` is what peers are told, and differs for "every interface"."""

    name: NodeId
    lend_bytes: int
    listen_host: str
    host: str
    port_first: int
    port_last: int
    cluster_name: str
    url: str
    hostname: str
    cpu_count: int
    memory_bytes: int
    objects: Path | None = None
    store_capacity_bytes: int | None = None
    scrub_bytes_per_s: int = SCRUB_BYTES_PER_S
    scrub_every_ms: int = SCRUB_EVERY_MS
    cloud: CloudSettings | None = None


def read_settings(
    env: Mapping[str, str],
    *,
    hostname: str,
    cpu_count: int,
    memory: MachineMemory,
    name: str | None = None,
    lend: str = "0",
    host: str | None = None,
    coordinator: str | None = None,
    port_first: int = PORT_FIRST,
    port_last: int = PORT_LAST,
    objects: str | None = None,
    store_capacity: str | None = None,
    scrub_rate: str | None = None,
    scrub_every_ms: int = SCRUB_EVERY_MS,
    route_to: Callable[[str], str] | None = None,
) -> NodeSettings:
    """The settings; what is passed here comes from flags and wins over the environment.

    Raises Misconfigured: for a size this machine does not have, a port range that is none, an address that other
    machines reach while nothing keeps them from the memory.
    """
    lend_bytes = _lent(lend, memory)
    url = config.coordinator_url(coordinator_of(env, coordinator))
    node_id = _named(name_of(env, name, hostname))
    listen_host = host or _host_for(url, route_to or config.route_from)
    if not config.is_loopback(listen_host) and config.find_secret(env) is None:
        raise Misconfigured(
            f"other machines reach {listen_host}, and without the cluster's secret nothing keeps them from this node's "
            "memory; set WEFT_SECRET (`weft join` on the coordinator's machine says how), or leave --host out",
            variable="WEFT_SECRET",
        )
    if not 1 <= port_first <= port_last <= 65_535:
        raise Misconfigured(
            f"--port-first {port_first} and --port-last {port_last} are no range of ports", variable="--port-first"
        )
    return NodeSettings(
        name=node_id,
        lend_bytes=lend_bytes,
        listen_host=listen_host,
        host=(route_to or config.route_from)(_host_of(url)) if _is_wildcard(listen_host) else listen_host,
        port_first=port_first,
        port_last=port_last,
        cluster_name=env.get("WEFT_CLUSTER", "").strip() or CLUSTER_NAME,
        url=url,
        hostname=hostname,
        cpu_count=cpu_count,
        memory_bytes=memory.total_bytes,
        objects=_store(env, objects, node_id),
        store_capacity_bytes=parse_size(store_capacity) if store_capacity is not None else None,
        scrub_bytes_per_s=max(1, parse_size(scrub_rate)) if scrub_rate is not None else SCRUB_BYTES_PER_S,
        scrub_every_ms=scrub_every_ms,
        cloud=read_cloud(env, node_id),
    )


def _lent(lend: str, memory: MachineMemory) -> int:
    lend_bytes = parse_size(lend)
    if 0 < lend_bytes < STRIPE_BYTES:
        raise Misconfigured(
            f"--lend {lend} is {format_size(lend_bytes)}, less than the {format_size(STRIPE_BYTES)} that regions are "
            "made of; give a unit, such as 3GiB, or 0 to lend nothing",
            variable="--lend",
        )
    if lend_bytes > memory.available_bytes:
        raise Misconfigured(
            f"--lend {format_size(lend_bytes)} is more than this machine has available: "
            f"{format_size(memory.available_bytes)} of {format_size(memory.total_bytes)}; lend less, or free some",
            variable="--lend",
        )
    return lend_bytes


def _store(env: Mapping[str, str], objects: str | None, name: str) -> Path | None:
    """Where this node keeps objects: each node of a machine in a directory of its own. `none` keeps none."""
    if objects == "none":
        return None
    return Path(objects).expanduser() if objects else config.data_directory(env) / "objects" / name


def _named(name: str) -> NodeId:
    try:
        return parse_node_id(name, "--name")
    except InvalidField as error:
        raise Misconfigured(
            f"{name!r} is no name for a node: {error}; give one with --name", variable="--name"
        ) from error


def _host_for(url: str, route_to: Callable[[str], str]) -> str:
    """Where to listen when nobody said: where the coordinator's answers come to, so that other nodes reach it too."""
    host = _host_of(url)
    return "127.0.0.1" if config.is_loopback(host) else route_to(host)


def _host_of(url: str) -> str:
    host = urlsplit(url).hostname
    assert host is not None, "a coordinator's URL was parsed and has a host"
    return host


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
