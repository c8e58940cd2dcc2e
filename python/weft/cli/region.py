"""`weft region`: list, create and delete regions."""

from collections.abc import Sequence

import click
import msgspec
from rich.table import Table

from weft.cli.connection import connect, coordinator_option, json_option
from weft.cli.failure import CommandFailed, failures_as_sentences
from weft.cli.output import console
from weft.client import RegionInfo
from weft.client.sizes import format_size
from weft.model.errors import RegionInUse


@click.group()
def region() -> None:
    """List, create and delete regions."""


@region.command("list")
@coordinator_option
@json_option
def list_regions(coordinator: str | None, as_json: bool) -> None:
    """List the regions."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        listed = cluster.capacity()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2))
    elif listed.regions:
        console().print(region_table(listed.regions))
    else:
        click.echo(f"no regions; {format_size(listed.free_bytes)} of {format_size(listed.lent_bytes)} lent are free")


@region.command("create")
@click.argument("name")
@click.argument("size")
@click.option("--lenders", type=click.IntRange(min=1), help="Spread it over at most so many machines.")
@coordinator_option
@json_option
def create_region(name: str, size: str, lenders: int | None, coordinator: str | None, as_json: bool) -> None:
    """Create a region and wait until its lenders have backed it."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        made = cluster.region(name, size=size, lenders=lenders).wait_ready()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made.info), indent=2))
    else:
        click.echo(f"region {made.name}, {format_size(made.size_bytes)} over {_lenders(made.info)}, is {made.state}")


@region.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Close the attachments that are in the way.")
@coordinator_option
@json_option
def delete_region(name: str, force: bool, coordinator: str | None, as_json: bool) -> None:
    """Delete a region; its lenders have their memory back."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        try:
            cluster.ask(cluster.coordinator.delete_region(name, force=force))
        except RegionInUse as error:
            raise CommandFailed(f"{error}; --force closes the attachments first") from error
    if as_json:
        click.echo(msgspec.json.encode({"status": "deleting", "name": name}))
    else:
        click.echo(f"region {name} is being deleted")


@region.command("detach")
@click.argument("name")
@click.option("--holder", help="Only the attachments of this holder, as `weft region list` shows it.")
@coordinator_option
@json_option
def detach_region(name: str, holder: str | None, coordinator: str | None, as_json: bool) -> None:
    """Close the attachments of a region whose holders are gone; what they had not flushed is lost."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        open_ones = cluster.ask(cluster.coordinator.region(name)).attachments
        closing = [attachment for attachment in open_ones if holder in (None, attachment.holder)]
        if holder is not None and not closing:
            holders = ", ".join(attachment.holder for attachment in open_ones) or "nobody"
            raise CommandFailed(f"region {name} is not attached by {holder}; it is by {holders}")
        for attachment in closing:
            cluster.ask(cluster.coordinator.detach(name, attachment.attachment_id))
    if as_json:
        closed = [{"attachment_id": attachment.attachment_id, "holder": attachment.holder} for attachment in closing]
        click.echo(msgspec.json.encode({"name": name, "closed": closed}))
    else:
        holders = ", ".join(f"{attachment.mode} by {attachment.holder}" for attachment in closing)
        click.echo(f"region {name}: closed {holders}" if closing else f"region {name} is not attached")


def region_table(regions: Sequence[RegionInfo]) -> Table:
    """Regions as people read them."""
    table = Table()
    table.add_column("region")
    table.add_column("size", justify="right")
    table.add_column("state")
    table.add_column("sealed")
    table.add_column("over")
    table.add_column("attached")
    for info in regions:
        table.add_row(
            info.name,
            format_size(info.size_bytes),
            info.state + (f" ({len(info.lost_extents)} extents lost)" if info.lost_extents else ""),
            "yes" if info.sealed else "no",
            _lenders(info),
            ", ".join(f"{attachment.mode} by {attachment.holder}" for attachment in info.attachments) or "-",
        )
    return table


def _lenders(info: RegionInfo) -> str:
    names = {replica.node_id for band in info.layout.bands for extent in band.extents for replica in extent.replicas}
    return ", ".join(sorted(names))
