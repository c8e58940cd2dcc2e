"""The group `weft ledger`."""

import click

from weft.cli.ledger.rebuild import rebuild
from weft.cli.ledger.state import state, verify


@click.group()
def ledger() -> None:
    """The log: where it stands, whether it is whole, and how it comes back."""


for command in (rebuild, state, verify):
    ledger.add_command(command)
