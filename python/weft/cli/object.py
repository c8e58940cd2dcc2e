"""`weft put`, `weft get` and `weft object`: bytes that are kept on several machines, under their SHA-256."""

import sys
from pathlib import Path

import click
import msgspec
from rich.table import Table

from weft.cli.connection import connect, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.cli.output import console
from weft.client import Cluster, ObjectInfo, ObjectList
from weft.client.sizes import format_size
from weft.model.policy import REPLICA_COUNT

_SHORT = 16
"""How much of a hash a table shows: enough to tell a million objects apart by."""


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replicas", type=click.IntRange(min=1), default=REPLICA_COUNT, show_default=True, help="Copies.")
@coordinator_option
@json_option
def put(file: Path, replicas: int, coordinator: str | None, as_json: bool) -> None:
    """Store a file on several machines and print the hash it is found by."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        stored = cluster.objects.put(file, replicas)
    if as_json:
        click.echo(
            msgspec.json.encode(
                {
                    "hash": stored.object_hash,
                    "size": stored.size_bytes,
                    "wanted": stored.wanted,
                    "nodes": stored.nodes,
                    "failed": stored.reasons,
                }
            )
        )
        return
    click.echo(stored.object_hash)
    for node_id, reason in stored.reasons.items():
        click.echo(f"weft: node {node_id} did not take it: {reason}", err=True)
    if len(stored.nodes) < stored.wanted:
        rest = (
            "the cluster makes the rest"
            if stored.reasons
            else "no more nodes keep objects here; it makes the rest later"
        )
        click.echo(f"weft: {len(stored.nodes)} of {stored.wanted} copies are stored; {rest}", err=True)


@click.command()
@click.argument("hash", metavar="HASH")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Where to; else standard output.")
@coordinator_option
@json_option
def get(hash: str, output: Path | None, coordinator: str | None, as_json: bool) -> None:  # noqa: A002 — its name on the command line.
    """Bring an object here, verified. A file appears whole or not at all."""
    if as_json and output is None:
        raise click.UsageError("--json says how it went on standard output; give the bytes a place with -o")
    with failures_as_sentences(), connect(coordinator) as cluster:
        if output is None:
            sys.stdout.buffer.write(cluster.get(hash))
            sys.stdout.buffer.flush()
            return
        size_bytes = cluster.get(hash, output)
    if as_json:
        click.echo(msgspec.json.encode({"hash": hash, "size": size_bytes, "file": str(output)}))
    else:
        click.echo(f"{output}, {format_size(size_bytes)}")


@click.group("object")
def objects() -> None:
    """Store, fetch, list and find objects."""


objects.add_command(put)
objects.add_command(get)


@objects.command("list")
@click.option("--under-replicated", is_flag=True, help="Only those with fewer copies than they should have and could.")
@click.option("--absent", is_flag=True, help="Only those without any copy.")
@coordinator_option
@json_option
def list_objects(under_replicated: bool, absent: bool, coordinator: str | None, as_json: bool) -> None:
    """List the objects."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        listed = _all_pages(cluster, under_replicated, absent)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2))
        return
    if listed.objects:
        console().print(object_table(listed.objects))
    else:
        click.echo("no such objects" if under_replicated or absent else "no objects; weft put FILE stores one")
    if listed.under_replicated or listed.absent:
        click.echo(
            f"{listed.total} objects, {listed.under_replicated} short of copies, {listed.absent} without any, "
            f"{listed.healing} copies under way"
        )


@objects.command("locate")
@click.argument("hash", metavar="HASH")
@coordinator_option
@json_option
def locate(hash: str, coordinator: str | None, as_json: bool) -> None:  # noqa: A002 — its name on the command line.
    """Show which nodes hold an object."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        found = cluster.objects.locate(hash)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    for node_id in found.replicas:
        click.echo(node_id)
    for node_id in found.offline:
        click.echo(f"{node_id} (offline)")
    if found.state != "healthy":
        click.echo(f"weft: {len(found.replicas)} of {found.rf} copies are there", err=True)


@objects.command("remove")
@click.argument("hash", metavar="HASH")
@coordinator_option
@json_option
def remove(hash: str, coordinator: str | None, as_json: bool) -> None:  # noqa: A002 — its name on the command line.
    """Delete an object: every machine that holds it frees the room."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        cluster.objects.remove(hash)
    click.echo(msgspec.json.encode({"hash": hash, "removed": True}) if as_json else f"removed {hash}")


def object_table(listed: list[ObjectInfo]) -> Table:
    """Objects as people read them."""
    table = Table()
    table.add_column("object")
    table.add_column("size", justify="right")
    table.add_column("copies")
    table.add_column("state")
    table.add_column("on")
    for found in listed:
        away = [f"{node_id} (offline)" for node_id in found.offline]
        table.add_row(
            found.hash if len(found.hash) <= _SHORT else f"{found.hash[:_SHORT]}…",
            format_size(found.size),
            f"{len(found.replicas)} of {found.rf}",
            found.state.replace("_", " "),
            ", ".join([*found.replicas, *away]) or "-",
        )
    return table


def _all_pages(cluster: Cluster, under_replicated: bool, absent: bool) -> ObjectList:
    """Every page as one list. Objects that come while it is read may be in it or not."""
    ask, question = cluster.ask, cluster.coordinator.objects
    page = ask(question(under_replicated=under_replicated, absent=absent))
    found = list(page.objects)
    while page.next is not None:
        page = ask(question(under_replicated=under_replicated, absent=absent, after=page.next))
        found += page.objects
    return msgspec.structs.replace(page, objects=found)
