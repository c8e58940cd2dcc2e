"""How every command that asks the coordinator finds it: `--coordinator`, or as any program does."""

from collections.abc import Callable
from typing import Any

import click

from weft.client import Client, Cluster
from weft.client import connect as connect_to

coordinator_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--coordinator", metavar="URL", help="The coordinator; WEFT_COORDINATOR, or http://127.0.0.1:8080."
)
json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs."
)


# A person waits for the answer: long enough for a coordinator that is just starting, and not to wonder any longer.
PATIENCE_S = 2.0


def call(coordinator: str | None) -> Client:
    """The coordinator's routes, for commands that are about no region."""
    return Client(coordinator)


def connect(coordinator: str | None) -> Cluster:
    """The cluster a command is about."""
    return connect_to(coordinator, patience_s=PATIENCE_S)
