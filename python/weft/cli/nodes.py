"""`weft node list|drain|resume|remove`: the nodes of the cluster, and what an operator does to them."""

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.cli.process import node
from weft.client import Client
from weft.client.sizes import format_size

__all__ = ["node"]


class NodeLine(Struct, frozen=True, kw_only=True):
    """One node, with what the doors that know it say."""

    node_id: str
    status: str
    zone: str
    addr: str
    capacity_gb: int
    lend_bytes: int
    free_bytes: int
    last_beat_ms_ago: int | None


class NodeLines(Struct, frozen=True, kw_only=True):
    """Every node."""

    nodes: list[NodeLine]


@node.command("list")
@coordinator_option
@json_option
def list_nodes(coordinator: str | None, as_json: bool) -> None:
    """List the nodes, whatever their status."""
    with failures_as_sentences(), call(coordinator) as client:
        listed = _read_nodes(client)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2))
    elif listed.nodes:
        Console().print(_table(listed.nodes))
    else:
        click.echo("no nodes")


@node.command("drain")
@click.argument("node_id")
@coordinator_option
@json_option
def drain_node(node_id: str, coordinator: str | None, as_json: bool) -> None:
    """Give a node nothing new; what it has it keeps."""
    with failures_as_sentences(), call(coordinator) as client:
        standing = client.drain_node(node_id=node_id)
    _say(standing, as_json, f"node {node_id} is given nothing new; `weft node resume {node_id}` undoes it")


@node.command("resume")
@click.argument("node_id")
@coordinator_option
@json_option
def resume_node(node_id: str, coordinator: str | None, as_json: bool) -> None:
    """Give a drained node work again."""
    with failures_as_sentences(), call(coordinator) as client:
        standing = client.resume_node(node_id=node_id)
    _say(standing, as_json, f"node {node_id} is given work again")


@node.command("remove")
@click.argument("node_id")
@coordinator_option
@json_option
def remove_node(node_id: str, coordinator: str | None, as_json: bool) -> None:
    """Remove a node from the cluster; what it held is lost."""
    with failures_as_sentences(), call(coordinator) as client:
        removed = client.remove_node(node_id=node_id)
    _say(removed, as_json, f"node {node_id} was removed; {removed.remaining_nodes} remain")


def _read_nodes(client: Client) -> NodeLines:
    """The members, with zone and capacity beside them. One that joins between the two questions is in the next list."""
    stored = {one.id: one for one in client.list_storage_nodes()}
    lines: list[NodeLine] = []
    for member in client.show_cluster().members:
        node_id = str(member.node_id)
        if (storage := stored.get(node_id)) is None:
            continue
        lines.append(
            NodeLine(
                node_id=node_id,
                status=member.status,
                zone=storage.zone,
                addr=storage.addr,
                capacity_gb=storage.capacity_gb,
                lend_bytes=member.lend_bytes,
                free_bytes=member.free_bytes,
                last_beat_ms_ago=member.last_beat_ms_ago,
            )
        )
    return NodeLines(nodes=lines)


def _table(lines: list[NodeLine]) -> Table:
    table = Table()
    for name in ("node", "status", "zone", "address"):
        table.add_column(name)
    for name in ("stores", "lends", "free", "last beat"):
        table.add_column(name, justify="right")
    for line in lines:
        ago = line.last_beat_ms_ago
        table.add_row(
            line.node_id,
            line.status,
            line.zone,
            line.addr or "-",
            f"{line.capacity_gb} GB",
            format_size(line.lend_bytes),
            format_size(line.free_bytes),
            "never" if ago is None else f"{ago / 1000:.1f} s ago",
        )
    return table


def _say(reply: object, as_json: bool, sentence: str) -> None:
    click.echo(msgspec.json.encode(reply).decode() if as_json else sentence)
