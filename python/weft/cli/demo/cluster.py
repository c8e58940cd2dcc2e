"""The demo's cluster: a coordinator and nodes as anybody would start them, each up when it prints its line."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from weft.cli.demo.crew import Child, Crew
from weft.cli.failure import CommandFailed

COORDINATOR = "WEFT_COORDINATOR"
# What a person may have set for a cluster of their own.
OWN_SETTINGS = frozenset(
    {
        COORDINATOR,
        "COORDINATOR_HOST",
        "COORDINATOR_PORT",
        "LLORCH_API_TOKEN",
        "LLORCH_API_TOKEN_FILE",
        "ORCHD_ADDR",
        "ORCHESTRATORD_CLOUD_PROFILE",
        "ORCHESTRATORD_NODE_TIMEOUT_MS",
        "ORCHESTRATORD_URL",
        "POOL_MANAGERD_CLOUD_PROFILE",
        "POOL_MANAGERD_NODE_ID",
        "WEFT_CLUSTER",
        "WEFT_DATA_DIR",
        "WEFT_SECRET",
        "WEFT_TLS_CA",
        "WEFT_TLS_CERT",
        "WEFT_TLS_KEY",
        "WEFT_TOKENS",
    }
)

# How long a process may take until it says that it is up: starting Python, opening a journal, binding a port.
_START_S = 15.0


class Node(Struct, frozen=True, kw_only=True):
    """A node's process, the line it said it was up with, and the port of that line."""

    name: str
    child: Child
    line: str
    port: int


def start_coordinator(crew: Crew, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    """Starts a coordinator on a port of the kernel's choice and returns its URL."""
    child = crew.start(
        "coordinator",
        *("-m", "weft.coordinator", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(crew.folder)),
        environment=settings,
    )
    line = child.line_with("http://", _START_S)
    match = re.search(r"http://\S+:\d+", line)
    if match is None:
        raise CommandFailed(f"the coordinator did not say where it is: {line}")
    return match[0]


def start_node(crew: Crew, name: str, url: str, lend_bytes: int, *, port: int | None = None) -> Node:
    """Starts a node and waits until it says that it lends."""
    ports = crew.ports.flags(port)
    # The store is the crew's, not the one a node of that name may have on this machine.
    own = ("--objects", str(crew.folder / "objects" / name))
    child = crew.start(
        name, "-m", "weft.agent", "--name", name, "--lend", str(lend_bytes), "--coordinator", url, *own, *ports
    )
    line = child.line_with(f"weft node {name} lending", _START_S)
    return Node(name=name, child=child, line=line, port=int(line.rpartition(":")[2]))
