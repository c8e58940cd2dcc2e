"""`weft join`: what to type on another machine so that it becomes a node of this cluster."""

import os
import shlex
import socket
from urllib.parse import urlsplit

import click

from weft import config
from weft.cli.connection import connect, coordinator_option
from weft.cli.failure import failures_as_sentences
from weft.model.policy import COORDINATOR_PORT


@click.command()
@coordinator_option
@click.option("--lend", default="4GiB", show_default=True, metavar="SIZE", help="What the other machine is to lend.")
def join(coordinator: str | None, lend: str) -> None:
    """Print the command that makes another machine a node."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        cluster.health()
        url = cluster.url
        secret_file = config.data_directory(os.environ) / config.SECRET_FILE
        secret_known = config.find_secret(os.environ) is not None
    host = urlsplit(url).hostname or ""
    for line in instructions(url, host, lend, secret_file=str(secret_file), secret_known=secret_known):
        click.echo(line)


def instructions(url: str, host: str, lend: str, *, secret_file: str, secret_known: bool) -> list[str]:
    """The lines to print: what to do here first, if anything, then the command, then where the secret is."""
    from_variable = "WEFT_SECRET" in os.environ
    lines: list[str] = []
    if config.is_loopback(host):
        here = _own_address()
        url = f"http://{config.join_address(here, urlsplit(url).port or COORDINATOR_PORT)}"
        secret = "" if from_variable else f'WEFT_SECRET="$(cat {shlex.quote(secret_file)})" '
        lines += [
            f"The coordinator listens at {host} only, which no other machine reaches. Start it again, and the nodes of",
            "this machine too:",
            "",
            f"  {secret}weft coordinator --host {here}",
            f"  {secret}weft node --host {here} ...",
            "",
        ]
    lines += [
        "On the other machine:",
        "",
        f'  WEFT_COORDINATOR={shlex.quote(url)} WEFT_SECRET="<the secret>" weft node --lend {shlex.quote(lend)}',
        "",
    ]
    if config.is_tls_set(os.environ):
        lines += [
            "This cluster speaks TLS: where the authority's key is, make that machine a certificate with",
            "`weft tls issue DIRECTORY NAME`, copy ca.pem, NAME.pem and NAME.key over, and set WEFT_TLS_CA,",
            "WEFT_TLS_CERT and WEFT_TLS_KEY to them before the command. NAME is the node's: its hostname, unless",
            "--name gives another.",
            "",
        ]
    if secret_known:
        where = "$WEFT_SECRET here" if from_variable else secret_file
        lines.append(
            f"The secret is the content of {where}; it opens every region, so hand it over as you would a key."
        )
    else:
        lines.append(
            "The secret is on the coordinator's machine, and this user does not see it: run `weft join` there."
        )
    return lines


def _own_address() -> str:
    """The address of this machine that packets to elsewhere leave from; its name when there is no way elsewhere."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # A documentation address (RFC 5737): connecting UDP only asks the routing table and sends nothing.
            probe.connect(("192.0.2.1", 9))
            address: str = probe.getsockname()[0]
            return address
    except OSError:
        return socket.gethostname()
