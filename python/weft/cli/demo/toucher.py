"""The demo's child that dies: touches a page whose lender was killed, so that everybody can see what happens then.

Run as `python -m weft.cli.demo.toucher REGION OFFSET`. It attaches, says `attached`, waits for a line on its input, and
reads the byte. What it says after that, if anything, is what the pager says for it; the byte itself must never appear.
"""

import sys

from weft.client import connect


def main() -> None:
    """Touches the byte named on the command line once a line has come in."""
    name, offset = sys.argv[1], int(sys.argv[2])
    with connect() as cluster, cluster.region(name).attach("read") as memory, memory.buffer as buffer:
        print("attached", flush=True)  # noqa: T201 - the demo waits for this line
        sys.stdin.readline()
        print(f"the byte is {buffer[offset]}", flush=True)  # noqa: T201 - must never be seen


if __name__ == "__main__":
    main()
