"""`weft doctor` itself: look at everything, print what was found, end with 1 when something needed is missing."""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.markup import escape

from weft.cli.connection import connect, coordinator_option, json_option
from weft.cli.doctor.devices import check_devmem, check_gpu, check_kvm, check_rdma
from weft.cli.doctor.finding import Finding, missing, ok
from weft.cli.doctor.machine import check_memory, check_processors, usable_processors
from weft.cli.doctor.network import check_congestion, check_ports
from weft.cli.doctor.userfaultfd import check_userfaultfd
from weft.cli.output import console
from weft.dataplane import measure_memory, report_machine
from weft.model.errors import WeftError
from weft.model.policy import PORT_FIRST, PORT_LAST

_ROOT = Path("/")
# The doctor asks once and says what it saw; somebody is waiting for the answer.
_PATIENCE_S = 2.0
_MARKS = {"ok": "[green]ok     [/]", "limited": "[yellow]limited[/]", "missing": "[red]missing[/]"}


@click.command()
@coordinator_option
@json_option
def doctor(coordinator: str | None, as_json: bool) -> None:
    """Say what this machine has for Weft, what it lacks, and what to do about it."""
    findings = examine(coordinator)
    blocked = [finding.name for finding in findings if finding.blocks]
    if as_json:
        body = msgspec.json.encode({"ready": not blocked, "findings": findings})
        click.echo(msgspec.json.format(body, indent=2))
    else:
        show(console(), findings)
        click.echo(f"\nnot ready: {', '.join(blocked)}" if blocked else "\nthis machine is ready for Weft")
    raise SystemExit(1 if blocked else 0)


def examine(coordinator: str | None) -> list[Finding]:
    """Every finding, what Weft stands on first."""
    report = report_machine()
    return [
        *check_userfaultfd(report),
        check_memory(measure_memory()),
        check_processors(usable_processors()),
        check_ports(PORT_FIRST, PORT_LAST),
        check_congestion(_ROOT),
        check_coordinator(coordinator),
        check_rdma(_ROOT),
        check_kvm(_ROOT),
        check_gpu(_ROOT),
        check_devmem(report),
    ]


def check_coordinator(coordinator: str | None) -> Finding:
    """Whether a coordinator answers where programs will look for one."""
    try:
        with connect(coordinator) as cluster:
            health = cluster.health(_PATIENCE_S)
    except WeftError as error:
        return missing(
            "coordinator",
            str(error),
            meaning="regions cannot be made or attached from here",
            remedy="start one with `weft coordinator`, or set WEFT_COORDINATOR to where it is",
        )
    return ok("coordinator", f"{cluster.url} answers ({health.status}, version {health.version})")


def show(out: Console, findings: list[Finding]) -> None:
    """The findings for a person: one line each, and two more where something is not well."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        out.print(
            f"{_MARKS[finding.state]}  {finding.name:<{width}}  {escape(finding.found)}",
            highlight=False,
            soft_wrap=True,
        )
        for text in (finding.meaning, finding.remedy):
            if text:
                out.print(f"         {'':<{width}}  {escape(text)}", highlight=False, soft_wrap=True, style="dim")
