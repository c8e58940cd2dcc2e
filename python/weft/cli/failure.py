"""The one way a command fails: a sentence on standard error, with the remedy, and exit status 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from weft.model.errors import WeftError


class CommandFailed(click.ClickException):
    """A command could not do what was asked; the message is the sentence the person reads."""

    exit_code = 1

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        """Prints the sentence, without decoration."""
        click.echo(f"weft: {self.message}", err=True)


@contextmanager
def failures_as_sentences() -> Iterator[None]:
    """Turns what the rooms below raise for the world's reasons into sentences; defects keep their traceback."""
    try:
        yield
    except WeftError as error:
        raise CommandFailed(one_sentence(str(error))) from error


def one_sentence(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())
