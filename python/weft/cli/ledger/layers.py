"""`weft ledger status|layers`: how far the log is available, and how each layer stands."""

import time
from typing import Any

import click
import msgspec
from rich.table import Table

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.cli.output import console
from weft.client import Client


@click.command()
@coordinator_option
@json_option
def status(coordinator: str | None, as_json: bool) -> None:
    """Show how far the log is committed and available, and what is pending."""
    with failures_as_sentences(), call(coordinator) as client:
        shown = client.show_ledger()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
        return
    click.echo(f"committed up to position {shown.committed_position}, available up to {shown.available_position}")
    if shown.da_state is None:
        click.echo("no availability layer is configured: an answer waits for the journal alone")
        return
    click.echo(f"availability is {shown.da_state}{_since(shown.since)}; answers wait for {shown.acknowledgement}")
    click.echo(
        f"{shown.pending} blobs pending, {shown.stuck} of them stuck, {shown.unshipped} batches on their way; "
        f"{shown.failover_count} failovers, {shown.reconciliation_count} reconciliations in this process's life"
    )


@click.command()
@coordinator_option
@json_option
def layers(coordinator: str | None, as_json: bool) -> None:
    """Show every layer: whether it is well, whether it takes writes, and what was asked of it."""
    with failures_as_sentences(), call(coordinator) as client:
        shown = read_layers(client)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
    elif shown:
        console().print(layer_table(shown))
    else:
        click.echo("no availability layer is configured; set DA_RPC_URL and DA_NAMESPACE, or USE_MOCK_DA=true")


def read_layers(client: Client) -> list[Any]:
    """The layers, as the coordinator shows them."""
    shown: list[Any] = client.show_ledger().layers
    return shown


def layer_table(shown: list[Any]) -> Table:
    """A line a layer."""
    table = Table()
    for name in ("role", "layer", "health", "writes"):
        table.add_column(name, no_wrap=True)
    for name in ("puts", "errors", "put, mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in shown:
        counts = layer.counts
        table.add_row(
            layer.role,
            layer.name,
            layer.health or "not checked yet",
            "here" if layer.is_active else "-",
            f"{counts.post_count:,}",
            f"{counts.error_count:,}",
            f"{counts.avg_post_latency_us / 1000:,.1f} ms",
        )
    return table


def _since(at_ms: int | None) -> str:
    return "" if at_ms is None else f" for {max(0.0, time.time() - at_ms / 1000):,.0f} s"
