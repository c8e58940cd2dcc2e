"""`weft events`: the log, from any place in it, once or for as long as it is left running."""

import click
import msgspec

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.client import EventInfo, encode_event


@click.command()
@click.option(
    "--from", "since", default="0", show_default=True, metavar="POSITION", help="Begin after this position, or event."
)
@click.option("--follow", "-f", is_flag=True, help="Stay, and show what happens.")
@coordinator_option
@json_option
def events(since: str, follow: bool, coordinator: str | None, as_json: bool) -> None:
    """Show what happened, in order: every event of the log."""
    with failures_as_sentences(), call(coordinator) as client:
        try:
            for event in client.events(since, follow=follow):
                click.echo(encode_event(event).decode() if as_json else _line(event))
        except KeyboardInterrupt:
            # Whoever stays leaves like this; it is the ordinary end and no failure.
            return


def _line(event: EventInfo) -> str:
    """An event as people read it: its place, its kind and its facts that are short."""
    facts: dict[str, object] = msgspec.json.decode(encode_event(event))["event"]
    if isinstance(node := facts.pop("node", None), dict):
        facts = {"node_id": node["node_id"], **facts}
    told = " ".join(
        f"{name}={value}"
        for name, value in facts.items()
        if name not in ("type", "at_ms") and value is not None and isinstance(value, str | int | float)
    )
    return f"{event.position}.{event.index}  {event.kind}  {told}".rstrip()
