"""`weft bench`: what this machine's way to another is worth."""

import click
import msgspec
from rich.table import Table

from weft.cli.connection import connect, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.cli.output import console
from weft.client.sizes import format_size
from weft.client.trial import try_transfers


@click.group()
def bench() -> None:
    """Measure how fast bytes move."""


@bench.command("transfer")
@click.option("--to", "node_id", metavar="NODE", required=True, help="The node to read from and write to.")
@coordinator_option
@json_option
def transfer(node_id: str, coordinator: str | None, as_json: bool) -> None:
    """Read and write 8 B to 64 MiB of a node's memory, one call at a time, and check every byte that came back."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        figures = list(try_transfers(cluster, node_id))
    if as_json:
        click.echo(msgspec.json.encode(figures).decode())
        return
    table = Table("", "size", "p50 µs", "p99 µs", "GB/s", "by")
    for figure in figures:
        table.add_row(
            figure.operation,
            format_size(figure.size_bytes),
            f"{figure.p50_us:.1f}",
            f"{figure.p99_us:.1f}",
            f"{figure.gb_per_s:.3f}",
            figure.transport,
        )
    console().print(table)
    click.echo(
        f"every byte was looked at and is what was sent; {figures[0].rounds} rounds of the smallest, "
        f"{figures[-1].rounds} of the largest"
    )
