"""`weft tls`: a cluster's certificates, with two commands and no other tool."""

import os
import time
from pathlib import Path

import click

from weft.cli.failure import failures_as_sentences
from weft.dataplane import issue_certificate, make_authority
from weft.model.errors import BadArgument
from weft.model.ids import parse_node_id

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
_DAY_S = 86_400
_DAYS_MAX = 36_500


@click.group(name="tls")
def tls() -> None:
    """Make certificates, so that what travels between machines can be read by nobody else."""


@tls.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--days", type=click.IntRange(1, _DAYS_MAX), default=AUTHORITY_DAYS, show_default=True)
def init(directory: Path, days: int) -> None:
    """Make the cluster's authority in DIRECTORY: ca.pem for every machine, ca.key for nobody but you."""
    with failures_as_sentences():
        certificate, key = make_authority(now_s=int(time.time()), lasts_s=days * _DAY_S)
        _keep(directory, {"ca.key": key, "ca.pem": certificate})
    click.echo(f"The authority is in {directory}. Next, for each machine: weft tls issue {directory} NAME")


@tls.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("name")
@click.argument("others", nargs=-1, metavar="[NAME]...")
@click.option("--days", type=click.IntRange(1, _DAYS_MAX), default=CERTIFICATE_DAYS, show_default=True)
def issue(directory: Path, name: str, others: tuple[str, ...], days: int) -> None:
    """Make a machine's certificate. NAME is its node's name; more of them where it runs more nodes."""
    with failures_as_sentences():
        names = tuple(str(parse_node_id(each, "NAME")) for each in (name, *others))
        authority = directory / "ca.key"
        try:
            authority_key = authority.read_text()
        except OSError as error:
            raise BadArgument(
                f"cannot read {authority}: {error.strerror}; make the authority with `weft tls init {directory}`"
            ) from error
        certificate, key = issue_certificate(authority_key, names, now_s=int(time.time()), lasts_s=days * _DAY_S)
        _keep(directory, {f"{name}.key": key, f"{name}.pem": certificate})
    here = directory.absolute()
    click.echo(f"Copy ca.pem, {name}.pem and {name}.key of {directory} to the machine, and start everything there with")
    click.echo(f"  WEFT_TLS_CA={here}/ca.pem WEFT_TLS_CERT={here}/{name}.pem WEFT_TLS_KEY={here}/{name}.key")
    click.echo("or wherever they lie. ca.key stays here.")


def _keep(directory: Path, files: dict[str, str]) -> None:
    """Writes files that are not there yet, all of them or none that stays; keys for this user alone."""
    made: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            path = directory / name
            mode = 0o600 if path.suffix == ".key" else 0o644
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            made.append(path)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        what = "it is there already; move it away first" if isinstance(error, FileExistsError) else error.strerror
        raise BadArgument(f"cannot write {error.filename or directory}: {what}") from error
