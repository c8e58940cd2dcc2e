"""`weft ledger rebuild`: this process becomes a coordinator that rebuilds its disk and ends."""

import click

from weft.cli.process import become


@click.command()
@click.option(
    "--from",
    "source",
    default="layers",
    show_default=True,
    metavar="SOURCE",
    help="A layer's name, several with commas, `layers` for all that are configured, or `journal`.",
)
@click.option("--data-dir", metavar="DIRECTORY", help="Whose disk; WEFT_DATA_DIR, or where coordinators keep theirs.")
@click.option("--journal", metavar="URL", help="Which journal; WEFT_JOURNAL, or sqlite in that directory.")
@click.option("--force", is_flag=True, help="Give up acknowledged batches that are missing, and put their list aside.")
def rebuild(source: str, data_dir: str | None, journal: str | None, *, force: bool) -> None:
    """Throw this machine's journal and snapshots away and rebuild them, while no coordinator runs here.

    A log that lacks what this machine knows to be acknowledged is refused. What was there is kept under another name.
    Ends with the position and the digest of the state.
    """
    arguments = ["--rebuild-from", source]
    for flag, value in (("--data-dir", data_dir), ("--journal", journal)):
        if value is not None:
            arguments += [flag, value]
    if force:
        arguments.append("--force")
    become("weft.coordinator", arguments)
