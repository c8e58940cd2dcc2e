"""The group `weft ledger`."""

import click

from weft.cli.ledger.layers import layers, status
from weft.cli.ledger.pending import pending, stuck
from weft.cli.ledger.rebuild import rebuild
from weft.cli.ledger.state import state, verify


@click.group()
def ledger() -> None:
    """The log: where it stands, whether it is whole, and how it comes back."""


for command in (status, layers, pending, stuck, rebuild, state, verify):
    ledger.add_command(command)
