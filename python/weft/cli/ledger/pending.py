"""`weft ledger pending|stuck`: what the primary is not known to hold, and having it tried again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.table import Table

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import CommandFailed, failures_as_sentences
from weft.cli.output import console
from weft.client import Client
from weft.client.sizes import format_size

_PAGE = 1_000


@click.command()
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to show.")
@coordinator_option
@json_option
def pending(limit: int, coordinator: str | None, as_json: bool) -> None:
    """List the blobs a fallback keeps for the primary, in the order in which they reach it."""
    with failures_as_sentences(), call(coordinator) as client:
        _show(client, limit, as_json, stuck=None, nothing="nothing is pending")


@click.command()
@click.option("--retry", is_flag=True, help="Have them tried again now, and everything else that is pending.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to show.")
@coordinator_option
@json_option
def stuck(retry: bool, limit: int, coordinator: str | None, as_json: bool) -> None:
    """List the pending blobs that failed too often and are tried again only when somebody asks."""
    with failures_as_sentences(), call(coordinator) as client:
        if not retry:
            _show(client, limit, as_json, stuck=True, nothing="nothing is stuck")
            return
        report = client.reconcile()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(f"{report.blobs_reconciled} of {report.blobs_processed} blobs brought to the primary")
    if not report.success:
        first = f"; the first: {report.errors[0]}" if report.errors else ""
        raise CommandFailed(f"{report.blobs_failed} blobs failed{first}")


def _show(client: Client, limit: int, as_json: bool, *, stuck: bool | None, nothing: str) -> None:
    lines = list(_read(client, limit, stuck))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(lines), indent=2))
        return
    if not lines:
        click.echo(nothing)
        return
    console().print(_table(lines))
    whole = client.show_ledger()
    left = (whole.stuck if stuck else whole.pending) - len(lines)
    if left > 0:
        click.echo(f"and {left} more; --limit shows more of them")


def _read(client: Client, limit: int, stuck: bool | None) -> Iterator[Any]:
    after = 0
    while limit > 0:
        page = client.list_pending(after=after, limit=min(limit, _PAGE), stuck=stuck).blobs
        if not page:
            return
        yield from page
        limit -= len(page)
        after = page[-1].sequence


def _table(lines: list[Any]) -> Table:
    table = Table()
    for name in ("commitment", "kept by", "since"):
        table.add_column(name)
    for name in ("size", "position", "retries"):
        table.add_column(name, justify="right")
    table.add_column("last error")
    for line in lines:
        table.add_row(
            line.commitment[:16],
            line.source,
            datetime.fromtimestamp(line.stored_at / 1000, UTC).isoformat(timespec="seconds"),
            format_size(line.size_bytes),
            "-" if line.position is None else str(line.position),
            f"{line.retry_count}{' (stuck)' if line.stuck else ''}",
            line.last_error or "-",
        )
    return table
