"""Where tables go: a terminal as wide as it is, or a file with room for every column."""

import sys

from rich.console import Console

# A table in a pipe is read by `grep` and `less -S`, which do not mind long lines and do mind wrapped ones.
_FILE_COLUMNS = 200


def console() -> Console:
    """A console for standard output; numbers are left uncoloured."""
    return Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS, highlight=False)
