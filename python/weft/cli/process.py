"""`weft coordinator`, `weft witness` and `weft node`: this process becomes the one asked for, with the flags as given.

The flags are defined once, by the process that takes them, so that `weft node --help` and `python -m weft.agent --help`
cannot differ. It is an exec and not a child: what supervises `weft node` supervises the node, signals included.
"""

import os
import sys

import click

_PASS_EVERYTHING = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}


@click.command(context_settings=_PASS_EVERYTHING, add_help_option=False, short_help="Run the coordinator.")
@click.pass_context
def coordinator(context: click.Context) -> None:
    """Run the coordinator: it keeps who is in the cluster and what each one holds."""
    become("weft.coordinator", context.args)


@click.command(context_settings=_PASS_EVERYTHING, add_help_option=False, short_help="Run a server that keeps blobs.")
@click.pass_context
def witness(context: click.Context) -> None:
    """Run a witness, `emergency` or `validator`: it keeps copies of the log."""
    become("weft.witness", context.args)


class _NodeCommand(click.Group):
    """`weft node` runs a node; `weft node list` and its like are about nodes. The first word decides."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Leave everything that does not begin with a subcommand to the process it is for, unread."""
        if args and args[0] in self.commands:
            return super().parse_args(context, args)
        context.args = args
        return args


@click.group(
    cls=_NodeCommand,
    invoke_without_command=True,
    add_help_option=False,
    short_help="Run this machine's node; list, drain, resume and remove nodes.",
)
@click.pass_context
def node(context: click.Context) -> None:
    """Run this machine's node: it joins the cluster and lends memory."""
    if context.invoked_subcommand is None:
        become("weft.agent", context.args)


def become(module: str, arguments: list[str]) -> None:
    """Run a module in this process's place."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - this Python, no shell
