"""`weft ledger state` and `weft ledger verify`: where a coordinator stands, and whether its log says the same."""

import click
import msgspec

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import CommandFailed, failures_as_sentences


@click.command()
@coordinator_option
@json_option
def state(coordinator: str | None, as_json: bool) -> None:
    """Show where the coordinator stands: position, digests and counts."""
    with failures_as_sentences(), call(coordinator) as client:
        found = client.show_state()
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(f"position      {found.position}, the log begins at {found.oldest}, {found.events} events")
    click.echo(f"term          {found.term}, written by {found.writer}{'' if found.writes else ', followed here'}")
    click.echo(f"log digest    {found.log_digest}")
    click.echo(f"state digest  {found.state_digest}")
    click.echo(f"snapshot      {found.snapshot or '-'}")
    click.echo("holds         " + ", ".join(f"{count} {noun}" for noun, count in found.counts.items()))


@click.command()
@click.option(
    "--from",
    "source",
    default="journal",
    show_default=True,
    metavar="SOURCE",
    help="`journal`, a layer's name, several with commas, or `layers` for all of them.",
)
@coordinator_option
@json_option
def verify(source: str, coordinator: str | None, as_json: bool) -> None:
    """Rebuild the state from the journal or from layers, beside the living one, and compare them byte for byte."""
    with failures_as_sentences(), call(coordinator) as client:
        report = client.rebuild_state(source=source)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        click.echo(f"{report.source}: {report.events} events up to position {report.position}, {report.took_ms} ms")
        if report.passed_over:
            click.echo(f"passed over   {report.passed_over} of {report.blobs} blobs: not this cluster's, or not whole")
        if report.behind:
            click.echo(f"behind        {report.behind} batches are not there yet")
        click.echo(f"state digest  {report.state_digest}")
    if not report.same:
        raise CommandFailed(f"what {report.source} holds is not what this coordinator lives by")
    if not as_json:
        click.echo("the same as the living state")
