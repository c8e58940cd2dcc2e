"""`weft`, the command: one word a command, every error one sentence on standard error."""

import click

from weft import __version__
from weft.cli.bench import bench
from weft.cli.demo.command import demo
from weft.cli.doctor.command import doctor
from weft.cli.events import events
from weft.cli.join import join
from weft.cli.ledger.command import ledger
from weft.cli.nodes import node
from weft.cli.object import get, objects, put
from weft.cli.placing import placement, schedule
from weft.cli.process import coordinator, witness
from weft.cli.region import region
from weft.cli.status import status
from weft.cli.tls import tls


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weft")
def weft() -> None:
    """Weft pools the memory of ordinary machines."""


for command in (
    coordinator,
    witness,
    node,
    status,
    region,
    join,
    doctor,
    demo,
    placement,
    schedule,
    events,
    put,
    get,
    objects,
    ledger,
    bench,
    tls,
):
    weft.add_command(command)


def main() -> None:
    """The entry point of the `weft` script."""
    weft(prog_name="weft")


if __name__ == "__main__":
    main()
