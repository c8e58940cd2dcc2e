"""`weft demo [FILE]` itself: what to move, and the story told in a terminal."""

from pathlib import Path

import click
from rich.console import Console

from weft.cli.demo.corpus import Corpus
from weft.cli.demo.interrupt import stopped_in_order
from weft.cli.demo.ledger import ledger
from weft.cli.demo.story import tell
from weft.cli.failure import CommandFailed, failures_as_sentences, one_sentence
from weft.client.sizes import parse_size
from weft.dataplane import measure_memory

# The region, the copy the writer holds until it is flushed and the reader's copy are in memory at once.
_COPIES = 3


class _Stories(click.Group):
    """`weft demo` tells the story of memory, and `weft demo ledger` that of the log. The first word decides."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """What names no story is about the first one."""
        if not args or (args[0] not in self.commands and args[0] not in context.help_option_names):
            args = ["memory", *args]
        return super().parse_args(context, args)


@click.group(cls=_Stories)
def demo() -> None:
    """Run a whole cluster on this machine: `weft demo [FILE]` moves memory, `weft demo ledger` loses a layer."""


@demo.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--size", default="256MiB", show_default=True, help="Repeat the files until there is this much.")
def memory(file: Path | None, size: str) -> None:
    """Run a whole cluster on this machine: real files move, a node is killed, nothing stays behind.

    FILE is what to move; the files of this Python installation when it is left out.
    """
    with failures_as_sentences():
        size_bytes = parse_size(size)
        corpus = Corpus.of_file(file, size_bytes) if file is not None else Corpus.of_python(size_bytes)
        available_bytes = measure_memory().available_bytes
        if corpus.size_bytes * _COPIES > available_bytes:
            raise CommandFailed(
                f"the demo needs {_COPIES} times {corpus.size_bytes} bytes of memory and {available_bytes} are "
                "available; give a smaller --size, or a smaller file"
            )
        try:
            with stopped_in_order():
                tell(Console(), corpus)
        except OSError as error:
            raise CommandFailed(one_sentence(f"the demo could not go on: {error}")) from error


demo.add_command(ledger)
